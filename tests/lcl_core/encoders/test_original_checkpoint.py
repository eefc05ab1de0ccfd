"""The authors' files in and out."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lcl_core.common.errors import UserError
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.original_checkpoint import import_original, load_official
from lcl_core.model import LCLConfig, LCLModel
from tests.lcl_core.authors_files import export_official

SMALL = {
    "image_size": 16, "patch_size": 8, "vision_width": 8, "vision_layers": 1, "vision_head_width": 8,
    "text_width": 8, "text_layers": 1, "text_heads": 1, "pool_heads": 1, "context_length": 12,
}  # fmt: skip


@pytest.fixture
def exported(small_model, tmp_path):
    export_official(small_model, tmp_path)
    return tmp_path


def test_round_trip(small_model, exported):
    again = load_official(exported / "config.json", exported / "weights.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in small_model.state_dict().items())
    assert again.config.context_length == small_model.config.context_length


def test_a_released_checkpoint_with_prefixes(small_model, exported):
    state = {f"module.{key}": value for key, value in small_model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, exported / "epoch_1.pt")
    again = load_official(exported / "config.json", exported / "epoch_1.pt")
    assert torch.equal(again.lm_head[1].weight, small_model.lm_head[1].weight)


def test_no_code_runs_from_a_checkpoint(exported):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"state_dict": Trap()}, exported / "trap.pt")
    with pytest.raises(UserError, match="cannot read weights"):
        load_official(exported / "config.json", exported / "trap.pt")


@pytest.mark.parametrize(
    "stored", [torch.zeros(2), [torch.zeros(2)], {"state_dict": [1]}, {"state_dict": {"logit_scale": 1.0}}]
)
def test_a_file_without_weights_is_refused(exported, stored):
    path = exported / "epoch.pt"
    torch.save(stored, path)
    with pytest.raises(UserError, match="cannot read weights: a state_dict") as refused:
        load_official(exported / "config.json", path)
    assert (refused.value.code, refused.value.file) == ("encoder_unreadable", str(path))


def test_bad_files_are_named(small_model, exported):
    weights = exported / "weights.safetensors"
    with pytest.raises(UserError, match="cannot read the model JSON"):
        load_official(exported / "nowhere.json", weights)
    broken = exported / "broken.json"
    broken.write_text('{"embed_dim": 24}')
    with pytest.raises(UserError, match="vision_cfg"):
        load_official(broken, weights)
    save_file({"logit_scale": torch.tensor(1.0)}, exported / "few.safetensors")
    with pytest.raises(UserError, match="Missing key"):
        load_official(exported / "config.json", exported / "few.safetensors")
    config = json.loads((exported / "config.json").read_text())
    config["text_cfg"]["vocab_size"] = 101
    with pytest.raises(UserError, match="size mismatch"):
        load_official(config, weights)


def test_special_tokens_in_another_order_than_the_tokenizers_are_refused(tmp_path):
    config = LCLConfig(**SMALL, vocab_size=49_411)
    export_official(LCLModel(config), tmp_path)
    import_original(tmp_path / "config.json", tmp_path / "weights.safetensors", tmp_path / "ours")
    assert check_encoder(tmp_path / "ours").kind == "lcl"
    official = json.loads((tmp_path / "config.json").read_text())
    ids = official["special_token_ids"]
    ids["<end_of_text>"], ids["<img_placehold>"] = ids["<img_placehold>"], ids["<end_of_text>"]
    (tmp_path / "config.json").write_text(json.dumps(official))
    with pytest.raises(UserError, match="<end_of_text> is") as caught:
        import_original(tmp_path / "config.json", tmp_path / "weights.safetensors", tmp_path / "other")
    assert caught.value.code == "encoder_unreadable"
    assert not (tmp_path / "other").exists()
