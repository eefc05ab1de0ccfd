"""A taught bridge comes back as it was, and not before other models."""

import json
import shutil

import pytest
import torch

from lcl_core.common.errors import UserError
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.evaluation.evaluate import evaluate
from lcl_core.evaluation.vlm.language_model import IMAGE_PLACEHOLDER, collate, token_sequence
from lcl_core.evaluation.vlm.model import VisionLanguageModel, build_vlm, load_vlm


@pytest.fixture
def trained_vlm(new_run, taught_language_model_dir, monkeypatch):
    """Runs a captioning task; gives the folder that it saved and the vlm itself."""

    def run(transfer, train):
        found: list[VisionLanguageModel] = []

        def watched(*args, **kwargs):
            found.append(build_vlm(*args, **kwargs))
            return found[-1]

        monkeypatch.setattr("lcl_core.evaluation.tasks.captioning.build_vlm", watched)
        monkeypatch.setattr("lcl_core.evaluation.vlm.model.compute_dtype", lambda *_: torch.float32)  # as it is loaded
        model = {"path": str(taught_language_model_dir), "train": train, "lr": 1e-3}
        own = {"language_model": model, "steps": 2, "batch_size": 8, "zero_shot": False}
        run_dir = new_run(tasks=["captioning"], captioning=own, transfer=[transfer], untrained_baseline=False)
        evaluate(run_dir)
        return run_dir.artifacts / "bridges" / f"captioning-{transfer}", found[0]

    return run


@pytest.mark.parametrize(("transfer", "train"), [("frozen", False), ("full", False), ("full", True)])
def test_it_says_the_same_after_it_was_saved(trained_vlm, encoder_dir, tmp_path, transfer, train):
    folder, vlm = trained_vlm(transfer, train)
    tower = load_image_encoder(encoder_dir)
    llava, seen_by = load_vlm(folder, tower, tmp_path)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = collate([token_sequence([IMAGE_PLACEHOLDER]) + token_sequence([5, 6, 1], target=True)] * 2, 4)
    before = vlm.source.trained_encoder or tower
    with torch.no_grad():
        expected = vlm.llava.loss(rows, before.patches(pixels))
        assert torch.equal(llava.loss(rows, seen_by.patches(pixels)), expected)
    assert (folder / "encoder.safetensors").is_file() is (transfer == "full")
    assert (folder / "language").is_dir() is train


def test_other_models_are_refused(trained_vlm, encoder_dir, tmp_path, save_tiny_encoder, save_tiny_language_model):
    folder, _ = trained_vlm("frozen", False)
    other = load_image_encoder(save_tiny_encoder(tmp_path / "other", seed=1))
    tower = load_image_encoder(encoder_dir)
    with pytest.raises(UserError, match="another encoder"):
        load_vlm(folder, other, tmp_path)
    anonymous = save_tiny_language_model(tmp_path / "stranger", seed=5)
    with pytest.raises(UserError, match="another language model"):
        load_vlm(folder, tower, tmp_path, language_model=str(anonymous))
    named = json.loads((folder / "bridge.json").read_text())["language_model"]["path"]
    moved = shutil.copytree(named, tmp_path / "moved")
    assert load_vlm(folder, tower, tmp_path, language_model=str(moved))
    (folder / "bridge.safetensors").write_bytes(b"{")
    with pytest.raises(UserError, match="evaluate again") as caught:
        load_vlm(folder, tower, tmp_path)
    assert (caught.value.code, caught.value.file) == ("language_model_unreadable", str(folder))
    with pytest.raises(UserError, match=r"bridge\.json"):
        load_vlm(tmp_path, tower, tmp_path)
