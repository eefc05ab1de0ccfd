"""Checkpoints: whole or passed over, and the newest whole one wins."""

from __future__ import annotations

import errno
import json
import os
import threading

import pytest
import torch
from safetensors.torch import load_file

from lcl_core.common.errors import FailureCode, StoreError, UserError, failure_code
from lcl_core.train import checkpoint
from lcl_core.train.checkpoint import CheckpointManager
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer, random_state, restore_random_state, training_tensors
from tests.lcl_core.train.rank_processes import run_ranks
from tests.module_process import run_module

CPU = torch.device("cpu")


def trained(model, *steps, optimizer=None):
    optimizer = optimizer or build_optimizer(model, lr=1e-3)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("steps", [0, 2], ids=["before the first step", "later"])
def test_restored_state_continues_bitwise(small_config, tmp_path, steps):
    straight, fresh = build_model(small_config, seed=0), build_model(small_config, seed=5)
    optimizer, again = trained(straight, *range(steps)), build_optimizer(fresh, lr=1e-3)
    with CheckpointManager(tmp_path, RankGroup()) as saver:
        assert saver.load_newest(training_tensors(fresh, again)) is None
        saver.save(2, training_tensors(straight, optimizer), {"text": "größer"})
        assert saver.load_newest(training_tensors(fresh, again)) == {"text": "größer"}
    trained(straight, steps, optimizer=optimizer)
    trained(fresh, steps, optimizer=again)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in straight.state_dict().items())


def groups(step):
    return {"model": {"w": torch.full((8, 3), float(step))}, "ema": {"w": torch.full((8, 3), -float(step))}}


def save(folder, *steps, **options):
    with CheckpointManager(folder, RankGroup(), **options) as saver:
        for step in steps:
            saver.save(step, groups(step), {"step": step})


def newest(saver):
    """The step of the newest whole checkpoint, whose tensors are of that step."""
    into = groups(0)
    state = saver.load_newest(into)
    assert all(torch.equal(into[group]["w"], groups(state["step"])[group]["w"]) for group in into)
    return state["step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saver(tmp_path):
    with CheckpointManager(tmp_path, RankGroup(), keep=2) as made:
        yield made


def test_other_libraries_read_the_files(saver):
    tensors = {"scalar": torch.tensor(3.5), "long": torch.tensor([2**62]), "across": torch.randn(4, 6).T}
    tensors["half"] = torch.randn(5, 3).bfloat16()
    saver.save(7, {"model": tensors}, {})
    saver.wait()
    read = load_file(saver.folder / "step_00000007" / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_the_newest_and_the_milestones_are_kept(tmp_path):
    save(tmp_path, *range(1, 9), keep=2, milestone_every=3)
    assert names(tmp_path) == [f"step_0000000{step}" for step in (3, 6, 7, 8)]


def test_a_damaged_newer_one_does_not_push_out_good_ones(tmp_path, capsys):
    save(tmp_path, 1, 2, 3, keep=3)
    weights = tmp_path / "step_00000003" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / "step_00000002" / "manifest.json").write_text("[]")
    with CheckpointManager(tmp_path, RankGroup(), keep=1) as saver:
        assert newest(saver) == 1
        assert [name for name, _ in saver.passed_over] == ["step_00000003", "step_00000002"]
        assert saver.passed_over[0][1] == "checksum of ema.safetensors does not match"
        assert "step_00000003 is passed over: checksum" in capsys.readouterr().err
        saver.save(2, groups(2), {"step": 2})
        assert newest(saver) == 2
    assert names(tmp_path) == ["step_00000002"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_storage_that_does_not_answer_is_no_damage(tmp_path, monkeypatch, number):
    save(tmp_path, 1, 2, 3, keep=1, milestone_every=2)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with CheckpointManager(tmp_path, RankGroup()) as saver:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "sha256_file", fail)
            with pytest.raises(StoreError, match=os.strerror(number)) as caught:
                saver.load_newest(groups(0))
        assert caught.value.code == "checkpoint_unreadable"
        assert not saver.passed_over
        assert newest(saver) == 3
    assert names(tmp_path) == ["step_00000002", "step_00000003"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"w": torch.zeros(8, 4)}, r"w is \(8, 3\) there, \(8, 4\) here"),
        ({"w": torch.zeros(8, 3), "v": torch.zeros(1)}, "v is missing there"),
        ({}, "w is .* there, missing here"),
    ],
)
def test_one_that_does_not_fit_is_refused(saver, changed, words):
    saver.save(1, groups(1), {})
    with pytest.raises(UserError, match=words) as caught:
        saver.load_newest({"model": changed})
    assert caught.value.code == "conflict"
    assert "step_00000001" in caught.value.message


def test_what_changes_after_save_does_not_leak_in(saver, monkeypatch):
    changed, real = threading.Event(), checkpoint.write_tensors

    def patched(*arguments):
        changed.wait(180)
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "write_tensors", patched)
    tensors, state = groups(1), {"step": 1}
    saver.save(1, tensors, state)
    tensors["model"]["w"].add_(1)
    state["step"] = 2
    assert not (saver.folder / "step_00000001").exists()
    changed.set()
    assert newest(saver) == 1


@pytest.mark.parametrize("flushes", range(4))
def test_a_full_disk_loses_nothing(saver, monkeypatch, flushes):
    saver.save(1, groups(1), {"step": 1})
    saver.wait()
    real, done = os.fsync, []

    def full(descriptor):
        if len(done) == flushes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(descriptor)
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saver.save(2, groups(2), {"step": 2})
        with pytest.raises(OSError, match="No space left") as caught:
            saver.save(3, groups(3), {"step": 3})
    assert failure_code(caught.value, saver.folder) is FailureCode.DISK_FULL
    assert names(saver.folder) == ["step_00000001"]
    assert newest(saver) == 1


@pytest.mark.extended
def test_killed_at_any_moment_of_a_save(tmp_path):
    done = run_module("tests.lcl_core.train.interrupted_saves", str(tmp_path / "checkpoints"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 4
    assert lines[0]["there"] == 1
    assert lines[-1]["there"] == lines[-1]["wanted"]
    assert all(line["there"] in (1, line["wanted"]) for line in lines)


def test_random_numbers_go_on():
    before = torch.get_rng_state()
    state = json.loads(json.dumps(random_state(CPU)))
    expected = torch.rand(3)
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(3), expected)
    torch.set_rng_state(before)


def test_two_ranks_save_shards_and_two_and_one_resume(tmp_path):
    for ranks in (2, 1):
        commands = [[str(tmp_path), str(rank), str(ranks)] for rank in range(ranks)]
        run_ranks([["tests.lcl_core.train.sharded_checkpoints", *command] for command in commands])
