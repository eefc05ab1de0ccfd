"""Checkpoints: whole or passed over, and the newest whole one wins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lcl_core.model import LCLConfig, LCLModel
from lcl_core.train import build_optimizer
from lcl_core.train.build import build_model
from lcl_core.train.checkpoint import Progress, load_newest, save_checkpoint


def trained(model: LCLModel, steps: int) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


def test_restored_state_continues_bitwise(small_config: LCLConfig, tmp_path: Path) -> None:
    straight = build_model(small_config, seed=0)
    trained(straight, 3)
    model = build_model(small_config, seed=0)
    optimizer = trained(model, 2)
    save_checkpoint(tmp_path, model, optimizer, Progress(step=2, position=9, skipped={"x": 1}, pending=[[0.1]]), 2)

    fresh = build_model(small_config, seed=5)
    again = build_optimizer(fresh, lr=1e-3)
    progress = load_newest(tmp_path, fresh, again)
    assert progress == Progress(step=2, position=9, skipped={"x": 1}, pending=[[0.1]])
    generator = torch.Generator().manual_seed(2)
    for parameter in fresh.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    again.step()
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in straight.state_dict().items())


def test_only_the_newest_are_kept(small_model: LCLModel, tmp_path: Path) -> None:
    optimizer = trained(small_model, 1)
    for step in range(1, 6):
        save_checkpoint(tmp_path, small_model, optimizer, Progress(step=step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000005"]


@pytest.mark.parametrize("victim", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_newest_falls_back(
    small_model: LCLModel, tmp_path: Path, victim: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = trained(small_model, 1)
    for step in (1, 2):
        newest = save_checkpoint(tmp_path, small_model, optimizer, Progress(step=step), keep=3)
    damage(newest / victim, harm)
    progress = load_newest(tmp_path, small_model, optimizer)
    assert progress is not None
    assert progress.step == 1
    assert "step_00000002 is passed over" in capsys.readouterr().err


def damage(path: Path, harm: str) -> None:
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
        return
    if harm == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)


def test_nothing_to_restore(small_model: LCLModel, tmp_path: Path) -> None:
    assert load_newest(tmp_path / "checkpoints", small_model, build_optimizer(small_model, lr=1e-3)) is None
