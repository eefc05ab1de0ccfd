"""Checkpoints: whole or passed over, and the newest whole one wins."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.common.errors import StoreError, UserError
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.train import build_optimizer
from lcl_core.train.checkpoint import manager
from lcl_core.train.checkpoint.manager import CheckpointManager, checkpoint_path
from lcl_core.train.checkpoint.reader import CheckpointFiles
from lcl_core.train.checkpoint.state import TrainingProgress, restore_rng, rng_tensors, training_tensors
from lcl_core.train.factory import build_model
from tests.interruptions import interrupted_everywhere
from tests.module_process import run_module

CPU = torch.device("cpu")


def save_checkpoint(
    folder: Path, model: LCLModel, optimizer: torch.optim.Optimizer, progress: TrainingProgress, keep: int
) -> Path:
    with CheckpointManager(folder, keep, asynchronous=False) as saver:
        own = {"rng": rng_tensors(CPU)}
        saver.save(progress.step, training_tensors(model, optimizer), asdict(progress), rank_tensors=own)
    return checkpoint_path(folder, progress.step)


def load_newest(folder: Path, model: LCLModel, optimizer: torch.optim.Optimizer) -> TrainingProgress | None:
    with CheckpointManager(folder, asynchronous=False) as saver:
        loaded = saver.load_newest(training_tensors(model, optimizer))
    if loaded is None:
        return None
    restore_rng(loaded.rank_tensors["rng"], CPU)
    return TrainingProgress.from_json(loaded.state)


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
    state = TrainingProgress(step=2, skipped={"x": 1}, pending=[{"loss": 0.1}])
    save_checkpoint(tmp_path, model, optimizer, state, 2)

    fresh = build_model(small_config, seed=5)
    again = build_optimizer(fresh, lr=1e-3)
    progress = load_newest(tmp_path, fresh, again)
    assert progress == state
    generator = torch.Generator().manual_seed(2)
    for parameter in fresh.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    again.step()
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in straight.state_dict().items())


def test_only_the_newest_are_kept(small_model: LCLModel, tmp_path: Path) -> None:
    optimizer = trained(small_model, 1)
    for step in range(1, 6):
        save_checkpoint(tmp_path, small_model, optimizer, TrainingProgress(step=step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000004", "step_00000005"]


@pytest.mark.parametrize("victim", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_newest_falls_back(
    small_model: LCLModel, tmp_path: Path, victim: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = trained(small_model, 1)
    for step in (1, 2):
        newest = save_checkpoint(tmp_path, small_model, optimizer, TrainingProgress(step=step), keep=3)
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


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((8, 3), float(step))}, "ema": {"w": torch.full((8, 3), -float(step))}}


def save(folder: Path, *steps: int, **options: Any) -> None:
    with CheckpointManager(folder, **options) as saver:
        for step in steps:
            saver.save(step, groups(step), {"step": step})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[CheckpointManager]:
    with CheckpointManager(tmp_path, keep=2) as made:
        yield made


def test_every_type_and_shape_comes_back_bitwise(saver: CheckpointManager) -> None:
    tensors = {
        "bf16": torch.randn(5, 3).bfloat16(),
        "half": torch.randn(3).half(),
        "double": torch.randn(2, 2, 2).double(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "long": torch.tensor([2**62]),
        "across": torch.randn(4, 6).T,
        "nan": torch.tensor([float("nan"), -0.0]),
    }
    saver.save(7, {"model": tensors}, {"text": "größer"})
    loaded = saver.load_newest()
    assert loaded is not None
    assert (loaded.step, loaded.state, loaded.ranks) == (7, {"text": "größer"}, 1)
    library = load_file(saver.folder / "step_00000007" / "model.safetensors")
    for got in (loaded.tensors["model"], library):
        assert got.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert got[name].dtype == tensor.dtype
            assert got[name].shape == tensor.shape
            assert same_bits(got[name], tensor)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)


def test_moments_come_back_in_place_and_the_first_step_needs_none(small_config: LCLConfig, tmp_path: Path) -> None:
    model, fresh = build_model(small_config, seed=0), build_model(small_config, seed=1)
    optimizer, again = trained(model, 2), build_optimizer(fresh, lr=1e-3)
    into = training_tensors(fresh, again)
    with CheckpointManager(tmp_path) as made:
        made.save(2, training_tensors(model, optimizer), {})
        assert made.load_newest(into) is not None
    for group, tensors in training_tensors(model, optimizer).items():
        assert all(torch.equal(tensor, into[group][name]) for name, tensor in tensors.items())
    assert all(float(again.state[parameter]["step"]) == 2 for parameter in fresh.parameters())


def test_the_newest_and_the_milestones_are_kept(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 9), keep=2, milestone_every=3)
    assert names(tmp_path) == [f"step_0000000{step}" for step in (3, 6, 7, 8)]


def test_a_damaged_newer_one_does_not_push_out_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1, 2, 3, keep=3)
    damage(tmp_path / "step_00000003" / "ema.safetensors", "flip")
    (tmp_path / "step_00000002" / "manifest.json").write_text("[]")
    with CheckpointManager(tmp_path, keep=1) as saver:
        loaded = saver.load_newest()
        assert loaded is not None
        assert loaded.step == 1
        assert [name for name, _ in saver.passed_over] == ["step_00000003", "step_00000002"]
        assert saver.passed_over[0][1] == "checksum of ema.safetensors does not match"
        assert "step_00000003 is passed over: checksum" in capsys.readouterr().err
        saver.save(2, groups(2), {"step": 2})
    assert names(tmp_path) == ["step_00000002"]
    with CheckpointManager(tmp_path) as saver:
        again = saver.load_newest()
    assert again is not None
    assert torch.equal(again.tensors["model"]["w"], groups(2)["model"]["w"])


def unreadable(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(files: CheckpointFiles, name: str) -> Any:
        raise OSError(number, os.strerror(number), str(files.folder / name))

    monkeypatch.setattr(CheckpointFiles, "open", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_storage_that_does_not_answer_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save(tmp_path, 1, 2, 3, keep=1, milestone_every=2)
    with CheckpointManager(tmp_path) as saver:
        with monkeypatch.context() as patch:
            unreadable(patch, number)
            with pytest.raises(StoreError, match=os.strerror(number)) as caught:
                saver.load_newest()
        assert caught.value.code == "checkpoint_unreadable"
        assert caught.value.file == str(tmp_path / "step_00000003")
        assert not saver.passed_over
        loaded = saver.load_newest()
    assert loaded is not None
    assert loaded.step == 3
    assert names(tmp_path) == ["step_00000002", "step_00000003"]


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))

    save(tmp_path, 1)
    with CheckpointManager(tmp_path) as saver:
        monkeypatch.setattr(manager.os, "listdir", fail)
        with pytest.raises(StoreError, match="Stale"):
            saver.load_newest()


def test_a_lack_of_memory_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    unreadable(monkeypatch, errno.ENOMEM)
    with CheckpointManager(tmp_path) as saver, pytest.raises(OSError, match="memory"):
        saver.load_newest()


def test_damaged_ones_are_kept_aside_until_there_are_others(tmp_path: Path) -> None:
    save(tmp_path, *range(1, 9), keep=2, milestone_every=3)
    for step in (3, 6, 7, 8):
        damage(tmp_path / f"step_0000000{step}" / "state.json", "flip")
    with CheckpointManager(tmp_path, keep=2, milestone_every=3) as saver:
        assert saver.load_newest() is None
    found = []
    for step in (1, 2, 3, 6):
        save(tmp_path, step, keep=2, milestone_every=3)
        found.append([name.replace("step_0000000", "") for name in names(tmp_path)])
    assert found[0] == ["damaged_3", "damaged_6", "damaged_8", "1"]
    assert found[1] == ["damaged_3", "damaged_6", "1", "2"]
    assert found[2] == ["damaged_6", "2", "3"]
    assert found[3] == ["3", "6"]


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    """The first save after it may be of a later step: a timed one."""
    save(tmp_path, 1, 2, keep=2)
    damage(tmp_path / "step_00000002" / "state.json", "flip")
    with CheckpointManager(tmp_path, keep=2) as saver:
        assert saver.load_newest() is not None
        saver.save(3, groups(3), {})
    assert names(tmp_path) == ["step_00000001", "step_00000003"]


def test_all_damaged_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1)
    damage(tmp_path / "step_00000001" / "manifest.json", "cut")
    with CheckpointManager(tmp_path) as saver:
        assert saver.load_newest() is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"w": torch.zeros(8, 4)}, r"w is \[8, 3\] float32, here \[8, 4\] float32"),
        ({"w": torch.zeros(8, 3).bfloat16()}, "here .* bfloat16"),
        ({"w": torch.zeros(8, 3), "v": torch.zeros(1)}, "v is missing"),
        ({}, "w is not in this run"),
    ],
)
def test_one_that_does_not_fit_is_refused(
    saver: CheckpointManager, changed: dict[str, torch.Tensor], words: str
) -> None:
    saver.save(1, groups(1), {})
    untouched = groups(5)["ema"]
    with pytest.raises(UserError, match=words) as caught:
        saver.load_newest({"ema": untouched, "model": changed})
    assert caught.value.code == "checkpoint_mismatch"
    assert "step_00000001" in caught.value.message
    assert torch.equal(untouched["w"], groups(5)["ema"]["w"])


def test_a_group_that_was_not_saved_is_refused(saver: CheckpointManager) -> None:
    saver.save(1, {"model": groups(1)["model"]}, {})
    with pytest.raises(UserError, match="this run's ema: w is missing"):
        saver.load_newest(groups(1))


def before_writing(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    real = manager.write_tensors

    def patched(*arguments: Any) -> str:
        action()
        return real(*arguments)

    monkeypatch.setattr(manager, "write_tensors", patched)


def test_what_changes_after_save_does_not_leak_in(saver: CheckpointManager, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = threading.Event()
    before_writing(monkeypatch, lambda: changed.wait(180))
    tensors, state = groups(1), {"list": [1]}
    saver.save(1, tensors, state)
    tensors["model"]["w"].add_(1)
    state["list"].append(2)
    assert not (saver.folder / "step_00000001").exists()
    changed.set()
    loaded = saver.load_newest()
    assert loaded is not None
    assert torch.equal(loaded.tensors["model"]["w"], groups(1)["model"]["w"])
    assert loaded.state == {"list": [1]}


def test_the_next_save_waits_for_the_one_before(saver: CheckpointManager, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    before_writing(monkeypatch, lambda: waiting.wait(180))
    wait, found = saver.wait, []

    def observed() -> None:
        waiting.set()  # only now can the first be written
        wait()
        found.append(names(saver.folder))

    saver.save(1, groups(1), {})
    monkeypatch.setattr(saver, "wait", observed)
    saver.save(2, groups(2), {})
    assert found == [["step_00000001"]]


def test_the_writers_error_comes_at_the_next_call(saver: CheckpointManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        saver.save(1, groups(1), {})
        with pytest.raises(OSError, match="Input/output error"):
            saver.save(2, groups(2), {})
    assert names(saver.folder) == []
    saver.save(3, groups(3), {})
    saver.wait()
    assert names(saver.folder) == ["step_00000003"]


@pytest.mark.parametrize("flushes", range(5))
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(
    saver: CheckpointManager, monkeypatch: pytest.MonkeyPatch, flushes: int, number: int
) -> None:
    saver.save(1, groups(1), {"step": 1})
    saver.wait()
    real, done = os.fsync, []

    def full(descriptor: int) -> None:
        if len(done) == flushes:
            raise OSError(number, os.strerror(number))
        done.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    saver.save(2, groups(2), {"step": 2})
    with pytest.raises(UserError, match="no space left") as caught:
        saver.wait()
    assert caught.value.code == "disk_full"
    assert names(saver.folder) == ["step_00000001"]
    loaded = saver.load_newest()
    assert loaded is not None
    assert loaded.step == 1


def test_killed_at_any_moment_of_a_save(tmp_path: Path) -> None:
    done = run_module("tests.lcl_core.train.interrupted_saves", str(tmp_path / "checkpoints"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 5
    assert lines[0]["there"] == 1
    assert lines[-1]["there"] == lines[-1]["wanted"]
    assert all(line["there"] in (1, line["wanted"]) for line in lines)


def test_killed_while_the_only_checkpoint_is_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 1, keep=1)
    saved = 1
    for value, interrupted in enumerate(interrupted_everywhere(), start=2):
        with CheckpointManager(tmp_path, keep=1, asynchronous=False) as made, interrupted:
            made.save(1, groups(value), {"value": value})
        with CheckpointManager(tmp_path, keep=1) as found:
            loaded = found.load_newest()
        assert loaded is not None
        assert not found.passed_over
        now = int(loaded.tensors["model"]["w"][0, 0])
        assert now in (saved, value)
        saved = now
        assert names(tmp_path) == ["step_00000001"]
    assert saved == value > 8


def test_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, alive = socket.gethostname(), os.getppid()
    for writer in (f"{here}-{gone.pid}", f"{here}-{os.getpid()}", f"{here}-{alive}", "elsewhere.org-1", "77"):
        (tmp_path / f".step_00000009.{writer}.tmp").mkdir()
    (tmp_path / ".step_odd.tmp").mkdir()
    save(tmp_path, 1)
    assert names(tmp_path) == [f".step_00000009.{here}-{alive}.tmp", "step_00000001"]


def test_random_numbers_go_on(saver: CheckpointManager) -> None:
    before = torch.get_rng_state()
    saver.save(1, {}, {}, rank_tensors={"rng": rng_tensors(CPU)})
    expected = torch.rand(3)
    loaded = saver.load_newest()
    assert loaded is not None
    restore_rng(loaded.rank_tensors["rng"], CPU)
    assert torch.equal(torch.rand(3), expected)
    torch.set_rng_state(before)
