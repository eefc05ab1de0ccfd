"""What an encoder's small files may say: all that is genuine passes, every bomb is refused before it is built."""

from __future__ import annotations

import base64
import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.encoders.safetensors_header import read_header
from lcl_core.encoders.schemas.lcl import LCLSettings, expected_shapes
from lcl_core.encoders.schemas.tokenizer import check_tokenizer
from lcl_core.encoders.schemas.validate import check_encoder
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.pretrained import pretrained_encoders
from tests.api.hostile import encoders
from tests.api.sample_assets import save_encoder
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip, save_timm


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("ours") / "encoder")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")


def test_genuine_encoders_pass(ours: Path, foreign: Path, tmp_path: Path) -> None:
    shipped = [found.directory for found in pretrained_encoders()]
    made = [save_huggingface(tmp_path / kind, kind) for kind in ("vit", "dinov2", "resnet", "siglip", "bert")]
    made += [save_openclip(tmp_path / f"openclip-{kind}", kind) for kind in ("vit", "resnet", "coca", "timm")]
    made += [save_timm(tmp_path / "timm", img_size=64, depth=2, embed_dim=32, num_heads=2)]
    for directory in (ours, foreign, *shipped, *made):
        check_encoder(directory)


# these are within their forms, and refused when the network is laid out without memory
LAID_OUT = {
    "a text tower of a wide context", "a text tower of 100 layers", "images of 4096 pixels", "patches of one pixel",
    "heads that do not divide", "timm with 4096 pixels",
}  # fmt: skip


@pytest.mark.parametrize("name", encoders.ALL)
def test_a_bomb_is_refused_before_it_is_built(ours: Path, foreign: Path, tmp_path: Path, name: str) -> None:
    directory = encoders.make(name, tmp_path / "encoder", ours, foreign)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    if name in LAID_OUT:
        check_encoder(directory)
    with pytest.raises(UserError) as caught:
        (load_image_encoder if name in LAID_OUT else check_encoder)(directory)
    assert caught.value.code in ("bad_encoder", "encoder_unreadable")
    assert str(directory) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 30, "seconds of processor time"


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 64, "patch_size": 16, "mlp_ratio": 4.0},
        {"image_size": 48, "patch_size": 8, "mlp_ratio": 2.5, "vision_layers": 0, "text_layers": 3, "text_width": 40},
        {"vision": "hybrid", "image_size": 48, "patch_size": 8},
        {"vision": "hybrid", "image_size": 48, "patch_size": 12},
        {"vision": "convnext", "image_size": 64, "patch_size": 32, "vision_layers": 7},
        {"vision": "convnext", "image_size": 8, "patch_size": 2, "vision_layers": 2, "vision_width": 33},
        {"vision": "resnet", "image_size": 64, "patch_size": 16, "vision_layers": 4},
        {"vision": "resnet", "image_size": 8, "patch_size": 4, "vision_layers": 1, "vision_width": 33},
    ],
)
def test_the_foretold_shapes_are_the_models(settings: dict[str, Any]) -> None:
    sizes = {"vision_width": 32, "vision_head_width": 16, "text_heads": 4, "vocab_size": 50_000, **settings}
    with torch.device("meta"):
        made = LCLModel(LCLConfig(**{"text_width": 32, "context_length": 40, **sizes}))
    wanted = expected_shapes(LCLSettings(model_type="lcl", **{"text_width": 32, "context_length": 40, **sizes}))  # type: ignore[arg-type]
    assert wanted == {name: tuple(value.shape) for name, value in made.state_dict().items()}


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ("timm:local-dir:/etc", "vision: .*pattern"),
        ("hf-hub:timm/resnet18", "vision: .*pattern"),
        ("hybrid", "do not fit config.json"),
        ("timm:resnet18", "the vision tower cannot be built .*has 256 channels"),
    ],
)
def test_a_vision_tower_from_elsewhere_is_refused(ours: Path, tmp_path: Path, vision: str, words: str) -> None:
    directory = shutil.copytree(ours, tmp_path / "encoder")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vision": vision}))
    with pytest.raises(UserError, match=words) as caught:
        load_image_encoder(directory)
    assert (caught.value.code, caught.value.field) == ("encoder_unreadable", "encoder")


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json", "vocab.json"])
def test_a_link_in_place_of_a_file_is_refused(foreign: Path, tmp_path: Path, name: str) -> None:
    """It is in no hash, and its target may change."""
    directory = shutil.copytree(foreign, tmp_path / "encoder")
    elsewhere = tmp_path / name
    elsewhere.write_text("{}")
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match="it is a link") as refused:
        check_encoder(directory)
    assert refused.value.file == str(directory / name)


def test_a_header_of_long_numbers_takes_no_time(ours: Path, foreign: Path, tmp_path: Path) -> None:
    """Numbers of 4000 digits were multiplied, which takes time with the square of their length."""
    directory = encoders.make("sides of 4000 digits", tmp_path / "encoder", ours, foreign)
    started = time.process_time()
    with pytest.raises(UserError, match="digits"):
        read_header(directory / "model.safetensors")
    assert time.process_time() - started < 5


def test_a_refusal_names_the_tensor(ours: Path, foreign: Path, tmp_path: Path) -> None:
    directory = encoders.make("a negative side", tmp_path / "encoder", ours, foreign)
    with pytest.raises(UserError, match=r"lm_head\.0\.bias"):
        read_header(directory / "model.safetensors")


@pytest.mark.parametrize("kind", ["CLIP", "Bert", "Roberta", "XLMRoberta"])
def test_tokenizers_of_transformers_pass(tmp_path: Path, kind: str) -> None:
    import transformers

    getattr(transformers, f"{kind}Tokenizer")().save_pretrained(tmp_path)
    assert check_tokenizer(tmp_path / "tokenizer.json", 100) >= 2


def write_steps(path: Path, normalizers: list[dict[str, Any]], pretokenizers: list[dict[str, Any]]) -> Path:
    """A ``tokenizer.json`` of these steps, with two words."""
    stored = {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pretokenizers},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
        "added_tokens": [],
    }
    path.write_text(json.dumps(stored))
    return path


# a map without entries: its table, and behind that the text "ZZ"
ZZ_MAP = {
    "type": "Precompiled",
    "precompiled_charsmap": base64.b64encode(struct.pack("<II", 4, 0) + b"ZZ\0").decode(),
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize(
    ("normalizers", "pretokenizers", "words"),
    [
        ([ZZ_MAP, ZZ_MAP], [], "Precompiled stands twice"),
        ([BYTES, BYTES], [], "ByteLevel stands twice"),
        ([BYTES], [BYTES], "ByteLevel stands twice"),
        ([ZZ_MAP, {"type": "NFKD"}], [], "1,152 characters of one; 256 are allowed"),
        ([{"type": "Prepend", "prepend": "a" * 16}] * 2, [], "289 characters of one"),
        ([], [METASPACE] * 9, "512 characters of one"),
    ],
)
def test_steps_whose_growth_multiplies_are_refused(
    tmp_path: Path, normalizers: list[dict[str, Any]], pretokenizers: list[dict[str, Any]], words: str
) -> None:
    path = write_steps(tmp_path / "tokenizer.json", normalizers, pretokenizers)
    with pytest.raises(UserError, match=words) as caught:
        check_tokenizer(path, 2)
    assert (caught.value.code, caught.value.file) == ("encoder_unreadable", str(path))


def test_a_step_of_each_kind_passes(tmp_path: Path) -> None:
    """Of XLM-R and SigLIP, of CLIP, of RoBERTa."""
    lower, whitespace = {"type": "Lowercase"}, {"type": "WhitespaceSplit"}
    check_tokenizer(write_steps(tmp_path / "tokenizer.json", [lower, ZZ_MAP], [whitespace, METASPACE]), 2)
    check_tokenizer(write_steps(tmp_path / "tokenizer.json", [{"type": "NFC"}, lower], [BYTES]), 2)
    check_tokenizer(write_steps(tmp_path / "tokenizer.json", [], [{**BYTES, "add_prefix_space": True}]), 2)


def test_the_schema_needs_no_torch(ours: Path) -> None:
    code = "import sys; from pathlib import Path; from lcl_core.encoders.schemas.validate import check_encoder; "
    code += f"check_encoder(Path({str(ours)!r})); print({{'torch', 'transformers', 'tokenizers'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_export_for_transformers_is_still_ours(ours: Path, tmp_path: Path) -> None:
    from lcl_core.encoders.export import export

    export("huggingface", ours, tmp_path / "copy")
    assert "auto_map" in json.loads((tmp_path / "copy" / "config.json").read_text())
    assert check_encoder(tmp_path / "copy").kind == "lcl"
    shutil.rmtree(tmp_path / "copy")


def test_special_tokens_have_the_ids_that_the_configuration_says(ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours, tmp_path / "other")
    config = json.loads((ours / "config.json").read_text())
    config |= {"img_token_id": config["soi_token_id"], "soi_token_id": config["img_token_id"]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the id of <img_placehold> is") as caught:
        check_encoder(tmp_path / "other")
    assert caught.value.file == str(tmp_path / "other" / "tokenizer.json")
