"""A taught bridge comes back as it was, and not before other models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lcl_core.errors import UserError
from lcl_core.rundir import RunDir
from lcl_core.transfer.bridge.packing import PICTURE, rows_of, tokens
from lcl_core.transfer.bridge.pupil import Pupil, enrol
from lcl_core.transfer.bridge.saving import load_pupil
from lcl_core.transfer.encoder import load_encoder
from lcl_core.transfer.evaluate import evaluate


@pytest.fixture
def taught(
    new_run: Callable[..., RunDir], taught_language_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, Pupil]]:
    """Runs a captioning task; gives the folder that it saved and the pupil itself."""

    def run(transfer: str, train: bool) -> tuple[Path, Pupil]:
        found: list[Pupil] = []

        def watched(*args: Any, **kwargs: Any) -> Pupil:
            found.append(enrol(*args, **kwargs))
            return found[-1]

        monkeypatch.setattr("lcl_core.transfer.captioner.enrol", watched)
        model = {"path": str(taught_language_model_dir), "train": train, "lr": 1e-3}
        own = {"language_model": model, "steps": 2, "batch_size": 8, "zero_shot": False, "precision": "fp32"}
        run_dir = new_run(tasks=["captioning"], captioning=own, transfer=[transfer], untrained_baseline=False)
        evaluate(run_dir)
        return run_dir.artifacts / "bridges" / f"captioning-{transfer}", found[0]

    return run


@pytest.mark.parametrize(("transfer", "train"), [("frozen", False), ("full", False), ("full", True)])
def test_it_says_the_same_after_it_was_saved(
    taught: Callable[..., tuple[Path, Pupil]], encoder_dir: Path, tmp_path: Path, transfer: str, train: bool
) -> None:
    folder, pupil = taught(transfer, train)
    tower = load_encoder(encoder_dir).tower
    speaker, seen_by, _ = load_pupil(folder, tower, tmp_path)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = rows_of([tokens([PICTURE]) + tokens([5, 6, 1], taught=True)] * 2, 4)
    before = pupil.ground.tower or tower
    with torch.no_grad():
        expected = pupil.speaker.loss(rows, before.patches(pixels))
        assert torch.equal(speaker.loss(rows, seen_by.patches(pixels)), expected)
    assert (folder / "encoder.safetensors").is_file() is (transfer == "full")
    assert (folder / "language").is_dir() is train


def test_other_models_are_refused(
    taught: Callable[..., tuple[Path, Pupil]], encoder_dir: Path, tmp_path: Path,
    save_tiny_encoder: Callable[..., Path], save_tiny_language_model: Callable[..., Path],
) -> None:  # fmt: skip
    folder, _ = taught("frozen", False)
    other = load_encoder(save_tiny_encoder(tmp_path / "other", seed=1)).tower
    tower = load_encoder(encoder_dir).tower
    with pytest.raises(UserError, match="another encoder"):
        load_pupil(folder, other, tmp_path)
    stranger = save_tiny_language_model(tmp_path / "stranger", seed=5)
    with pytest.raises(UserError, match="another language model"):
        load_pupil(folder, tower, tmp_path, language_model=str(stranger))
    named = json.loads((folder / "bridge.json").read_text())["language_model"]["path"]
    moved = shutil.copytree(named, tmp_path / "moved")
    assert load_pupil(folder, tower, tmp_path, language_model=str(moved))
    (folder / "bridge.safetensors").write_bytes(b"{")
    with pytest.raises(UserError, match="evaluate again") as caught:
        load_pupil(folder, tower, tmp_path)
    assert (caught.value.code, caught.value.file) == ("bridge_unreadable", str(folder))
    with pytest.raises(UserError, match=r"bridge\.json"):
        load_pupil(tmp_path, tower, tmp_path)
