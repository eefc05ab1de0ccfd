"""The ranks of a run share the writing of what they all have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from lcl_core.train.checkpoint import writer
from lcl_core.train.checkpoint.writer import plan_files
from lcl_core.train.distributed import device_mesh
from tests.lcl_core.train.small_runs import curve, prepared, weights
from tests.lcl_core.train.test_checkpoint_reader import fake_group
from tests.lcl_core.train.test_deferred_init import run
from tests.module_process import run_together

MODULE = "tests.lcl_core.train.replicated_checkpoints"


def tensors() -> dict[str, Tensor]:
    sizes = {"table": (1000, 16), "bias": (16,), "conv": (64, 3, 4, 4), "tail": (501, 3)}
    return {name: torch.randn(*size) for name, size in sizes.items()} | {"scale": torch.tensor(1.0)}


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_each_rank_writes_as_many_bytes_of_what_all_have(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    monkeypatch.setattr(writer, "MIN_PART_BYTES", 1)
    whole = tensors()
    total = sum(tensor.nbytes for tensor in whole.values())
    found = {name: torch.full_like(tensor, torch.nan) for name, tensor in whole.items()}
    times = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
    for rank in range(ranks):
        ((name, file),) = plan_files({"model": whole}, rank, ranks).items()
        assert name == f"model/rank_{rank:05d}.safetensors"
        assert sum(part.nbytes for part in file.tensors.values()) <= total / ranks + 500
        for key, part in file.tensors.items():
            assert file.offsets is not None
            block = tuple(slice(at, at + size) for at, size in zip(file.offsets[key], part.shape, strict=True))
            found[key][block] = part
            times[key][block] += 1
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert all(bool((count == 1).all()) for count in times.values())


def test_small_groups_are_one_file_and_few_parts_are_of_ranks_far_from_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = {"small": {"w": torch.zeros(8)}, "large": {"w": torch.zeros(4096, 4)}}
    monkeypatch.setattr(writer, "MIN_PART_BYTES", 20_000)
    names = [sorted(plan_files(whole, rank, 6)) for rank in range(6)]
    assert names[0] == ["large/rank_00000.safetensors", "small.safetensors"]
    assert names[1:] == [[], ["large/rank_00002.safetensors"], [], ["large/rank_00004.safetensors"], []]


def test_what_differs_between_ranks_is_written_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MIN_PART_BYTES", 1)
    whole = {"a": torch.zeros(10), "mean": torch.zeros(1000)}
    parts = [plan_files({"model": whole}, rank, 2, {"model": ["mean"]}) for rank in range(2)]
    held = [set(next(iter(part.values())).tensors) if part else set() for part in parts]
    assert "mean" in held[0]
    assert "mean" not in held[1]


def test_groups_that_have_copies_of_the_shards_share_the_writing() -> None:
    written: Counter[int] = Counter()
    times: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for rank in range(4):
        with fake_group(rank, 4):
            mesh = device_mesh("cpu", 4, 2)
            sharded: dict[str, Any] = {
                f"{name}.{number}": DTensor.from_local(
                    torch.zeros(*size), mesh, [Replicate(), Shard(0)], run_check=False
                )
                for number in range(6)
                for name, size in (("weight", (50, 10)), ("bias", (5,)))
            }
            for file in plan_files({"model": sharded}, rank, 4).values():
                written[rank] += sum(part.nbytes for part in file.tensors.values())
                assert file.offsets is not None
                times.update((name, tuple(offset)) for name, offset in file.offsets.items())
    assert set(times.values()) == {1}
    assert len(times) == 2 * 12
    assert max(written.values()) <= 1.1 * min(written.values())


@pytest.mark.parametrize("readers", [3, 2, 1])
def test_parts_of_three_ranks_are_read_by_any_number_each_once(tmp_path: Path, readers: int) -> None:
    start(tmp_path, 3, "save")
    checkpoint = tmp_path / "checkpoints" / "step_00000001"
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.*")}
    assert {f"{group}/rank_0000{rank}.safetensors" for group in ("model", "optimizer") for rank in range(3)} <= files
    opened = start(tmp_path, readers, "load")
    assert set().union(*opened) == files
    for rank, names in enumerate(opened):
        assert len(names) == len(set(names))
        if readers == 3:
            own = {f"{group}/rank_{rank:05d}.safetensors" for group in ("model", "optimizer")}
            assert set(names) == own | {f"rng.rank_{rank:05d}.safetensors", "manifest.json", "state.json"}


def test_one_file_for_all_is_read_by_one_rank_and_sent_to_the_others(tmp_path: Path) -> None:
    """As the first rank wrote a checkpoint before the ranks shared the writing."""
    start(tmp_path, 1, "save")
    opened = Counter(name for names in start(tmp_path, 3, "load") for name in names)
    assert opened == {
        "manifest.json": 3,
        "state.json": 3,
        "model.safetensors": 1,
        "optimizer.safetensors": 1,
        "rng.rank_00000.safetensors": 1,
    }


def start(folder: Path, ranks: int, how: str) -> list[list[str]]:
    commands = [[MODULE, str(folder), str(rank), str(ranks), how] for rank in range(ranks)]
    done = run_together(commands, GLOO_SOCKET_IFNAME="lo")
    assert [each.returncode for each in done] == [0] * ranks, [each.stderr for each in done]
    return [each.stdout.split() for each in done]


def test_a_run_with_statistics_of_each_rank_resumes_from_parts_to_the_last_bit(
    tmp_path: Path, sample_zip: Path
) -> None:
    sizes = {"image_size": 32, "vision": "resnet", "vision_width": 32, "vision_layers": 3, "text_width": 32}
    model = {**sizes, "text_layers": 1, "text_heads": 2}
    changes = {"model": model, "batch": {"tokens": 256, "images": 8}, "steps": 4, "log_every": 1, "checkpoint_every": 2}
    runs = [prepared(tmp_path / how, sample_zip, **changes) for how in ("straight", "stopped")]
    for run_dir, stops in zip(runs, ((9,), (2, 9)), strict=True):
        for stop in stops:
            run(run_dir, "parts", stop)
    newest = max(runs[1].checkpoints.glob("step_*"))
    assert len(list((newest / "model").iterdir())) == 2
    assert json.loads((newest / "manifest.json").read_text())["ranks"] == 2
    assert curve(runs[0]) == curve(runs[1])
    assert weights(runs[0]) == weights(runs[1])
