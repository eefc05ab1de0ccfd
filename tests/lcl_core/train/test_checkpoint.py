"""Checkpoints: whole or passed over, and the newest whole one wins."""

from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.common.errors import StoreError, UserError
from lcl_core.train.checkpoint import load
from lcl_core.train.checkpoint import save as checkpoint_files
from lcl_core.train.checkpoint.save import CheckpointManager, checkpoint_path
from lcl_core.train.factory import build_model
from lcl_core.train.metrics import TrainingProgress
from lcl_core.train.optimizer import build_optimizer, restore_rng, rng_tensors, training_tensors
from tests.module_process import run_module

CPU = torch.device("cpu")


def save_checkpoint(folder, model, optimizer, progress, keep):
    with CheckpointManager(folder, keep) as saver:
        own = {"rng": rng_tensors(CPU)}
        saver.save(progress.step, training_tensors(model, optimizer), asdict(progress), rank_tensors=own)
    return checkpoint_path(folder, progress.step)


def load_newest(folder, model, optimizer):
    with CheckpointManager(folder) as saver:
        loaded = saver.load_newest(training_tensors(model, optimizer))
    if loaded is None:
        return None
    restore_rng(loaded.rank_tensors["rng"], CPU)
    return TrainingProgress(**loaded.state)


def trained(model, steps):
    optimizer = build_optimizer(model, lr=1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


def test_restored_state_continues_bitwise(small_config, tmp_path):
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


def damage(path, harm):
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
        return
    if harm == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)


def test_nothing_to_restore(small_model, tmp_path):
    assert load_newest(tmp_path / "checkpoints", small_model, build_optimizer(small_model, lr=1e-3)) is None


def groups(step):
    return {"model": {"w": torch.full((8, 3), float(step))}, "ema": {"w": torch.full((8, 3), -float(step))}}


def save(folder, *steps, **options):
    with CheckpointManager(folder, **options) as saver:
        for step in steps:
            saver.save(step, groups(step), {"step": step})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saver(tmp_path):
    with CheckpointManager(tmp_path, keep=2) as made:
        yield made


def test_every_type_and_shape_comes_back_bitwise(saver):
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


def same_bits(one, other):
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)


def test_moments_come_back_in_place_and_the_first_step_needs_none(small_config, tmp_path):
    model, fresh = build_model(small_config, seed=0), build_model(small_config, seed=1)
    optimizer, again = trained(model, 2), build_optimizer(fresh, lr=1e-3)
    into = training_tensors(fresh, again)
    with CheckpointManager(tmp_path) as made:
        made.save(2, training_tensors(model, optimizer), {})
        assert made.load_newest(into) is not None
    for group, tensors in training_tensors(model, optimizer).items():
        assert all(torch.equal(tensor, into[group][name]) for name, tensor in tensors.items())
    assert all(float(again.state[parameter]["step"]) == 2 for parameter in fresh.parameters())


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    save(tmp_path, *range(1, 9), keep=2, milestone_every=3)
    assert names(tmp_path) == [f"step_0000000{step}" for step in (3, 6, 7, 8)]


def test_a_damaged_newer_one_does_not_push_out_good_ones(tmp_path, capsys):
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


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_storage_that_does_not_answer_is_no_damage(tmp_path, monkeypatch, number):
    save(tmp_path, 1, 2, 3, keep=1, milestone_every=2)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with CheckpointManager(tmp_path) as saver:
        with monkeypatch.context() as patch:
            patch.setattr(load, "sha256_file", fail)
            with pytest.raises(StoreError, match=os.strerror(number)) as caught:
                saver.load_newest()
        assert caught.value.code == "checkpoint_unreadable"
        assert caught.value.file == str(tmp_path / "step_00000003")
        assert not saver.passed_over
        loaded = saver.load_newest()
    assert loaded is not None
    assert loaded.step == 3
    assert names(tmp_path) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"w": torch.zeros(8, 4)}, r"w is \[8, 3\] float32, here \[8, 4\] float32"),
        ({"w": torch.zeros(8, 3).bfloat16()}, "here .* bfloat16"),
        ({"w": torch.zeros(8, 3), "v": torch.zeros(1)}, "v is missing"),
        ({}, "w is not in this run"),
    ],
)
def test_one_that_does_not_fit_is_refused(saver, changed, words):
    saver.save(1, groups(1), {})
    untouched = groups(5)["ema"]
    with pytest.raises(UserError, match=words) as caught:
        saver.load_newest({"ema": untouched, "model": changed})
    assert caught.value.code == "checkpoint_mismatch"
    assert "step_00000001" in caught.value.message
    assert torch.equal(untouched["w"], groups(5)["ema"]["w"])


def test_a_group_that_was_not_saved_is_refused(saver):
    saver.save(1, {"model": groups(1)["model"]}, {})
    with pytest.raises(UserError, match="this run's ema: w is missing"):
        saver.load_newest(groups(1))


def before_writing(monkeypatch, action):
    real = checkpoint_files.write_tensors

    def patched(*arguments):
        action()
        return real(*arguments)

    monkeypatch.setattr(checkpoint_files, "write_tensors", patched)


def test_what_changes_after_save_does_not_leak_in(saver, monkeypatch):
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


def test_the_writers_error_comes_at_the_next_call(saver, monkeypatch):
    def broken(_):
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
def test_a_full_disk_loses_nothing(saver, monkeypatch, flushes, number):
    saver.save(1, groups(1), {"step": 1})
    saver.wait()
    real, done = os.fsync, []

    def full(descriptor):
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


@pytest.mark.extended
def test_killed_at_any_moment_of_a_save(tmp_path):
    done = run_module("tests.lcl_core.train.interrupted_saves", str(tmp_path / "checkpoints"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 5
    assert lines[0]["there"] == 1
    assert lines[-1]["there"] == lines[-1]["wanted"]
    assert all(line["there"] in (1, line["wanted"]) for line in lines)


def test_random_numbers_go_on(saver):
    before = torch.get_rng_state()
    saver.save(1, {}, {}, rank_tensors={"rng": rng_tensors(CPU)})
    expected = torch.rand(3)
    loaded = saver.load_newest()
    assert loaded is not None
    restore_rng(loaded.rank_tensors["rng"], CPU)
    assert torch.equal(torch.rand(3), expected)
    torch.set_rng_state(before)
