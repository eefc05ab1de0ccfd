"""Many ranks that write and load a checkpoint, one after the other in one process, without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lcl_core.train.checkpoint import manager
from lcl_core.train.checkpoint.manager import CheckpointManager, LoadedCheckpoint, checkpoint_path
from lcl_core.train.checkpoint.manifest import CheckpointManifest
from lcl_core.train.checkpoint.writer import TensorFile, plan_files, rank_file, write_tensors, write_text
from lcl_core.train.distributed import RankGroup

ROWS, COLUMNS = 64 * 12, 256
GROUPS = ("model", "optimizer", "ema")
Groups = dict[str, dict[str, Tensor]]
OPENED: list[Path] | None = None


def _note_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | Path):
        OPENED.append(Path(arguments[0]))


sys.addaudithook(_note_open)  # cannot be taken away again


class FakeRanks(RankGroup):
    """One of many ranks; ``messages``: what all ranks send, as far as it is known. Beyond, ``_NotKnown`` is raised."""

    def __init__(self, rank: int, size: int, messages: list[list[Any]]) -> None:
        self.rank, self.size, self._messages = rank, size, messages
        self.sent: list[Any] = []

    def all_gather_object(self, value: Any) -> list[Any]:
        self.sent.append(json.loads(json.dumps(value)))
        number = len(self.sent) - 1
        if number < len(self._messages):
            return self._messages[number]
        raise _NotKnown

    def close(self) -> None:
        pass


class _NotKnown(Exception):
    """What the other ranks send next is known when each of them has come as far."""


@contextmanager
def fake_group(rank: int, size: int) -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def whole(group: str, name: str) -> Tensor:
    seed = GROUPS.index(group) * 2 + (name == "bias")
    return torch.randn(ROWS, *([COLUMNS] if name == "weight" else []), generator=torch.Generator().manual_seed(seed))


def shards(rank: int, size: int, *, filled: bool) -> Groups:
    """What ``rank`` holds; call within ``fake_group``. A scalar is whole on every rank."""
    mesh, found = init_device_mesh("cpu", (size,)), {}
    for group in GROUPS:
        found[group] = {"scale": torch.tensor(0.5 if filled else 0.0)}
        for name in ("weight", "bias"):
            full = whole(group, name)
            chunks = full.chunk(size)
            local = chunks[rank] if rank < len(chunks) else full[:0]
            local = local.clone() if filled else torch.zeros_like(local)
            found[group][name] = DTensor.from_local(
                local, mesh, [Shard(0)], run_check=False, shape=full.shape, stride=full.stride()
            )
    return found


def write_checkpoint(folder: Path, size: int) -> None:
    """The checkpoint of step 5 as that many ranks write it."""
    path = checkpoint_path(folder, 5)
    sums = {}
    for rank in range(size):
        with fake_group(rank, size):
            files = plan_files(shards(rank, size, filled=True), rank)
        files[rank_file("rng", rank)] = TensorFile({"cpu": torch.tensor([rank])})
        for name, file in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            sums[name] = write_tensors(path / name, file.tensors, file.metadata())
    sums["state.json"] = write_text(path / "state.json", "{}")
    (path / "manifest.json").write_text(CheckpointManifest(5, size, sums).to_json())


def load(folder: Path, size: int) -> list[tuple[list[Path], Groups, LoadedCheckpoint]]:
    """Of each of ``size`` ranks the files that it opened, and what it has afterwards."""
    messages: list[list[Any]] = []
    while True:
        results, sent = [], []
        for rank in range(size):
            with fake_group(rank, size):
                done = _load_one(folder, rank, size, messages)
            results.append(done[:3])
            sent.append(done[3])
        if len(sent[0]) == len(messages):
            return results
        messages.append([each[len(messages)] for each in sent])


def _load_one(folder: Path, rank: int, size: int, messages: list[list[Any]]) -> Any:
    global OPENED
    ranks = FakeRanks(rank, size, messages)
    into, loaded = shards(rank, size, filled=False), None
    OPENED = []
    with (
        patch.object(manager, "RankGroup", lambda: ranks),
        suppress(_NotKnown),
        CheckpointManager(folder, asynchronous=False) as reader,
    ):
        loaded = reader.load_newest(into)
    opened, OPENED = [path for path in OPENED if folder in path.parents and path.is_file()], None
    return opened, into, loaded, ranks.sent


def local_bytes(into: Groups) -> int:
    tensors = [tensor for group in into.values() for tensor in group.values()]
    return sum((each.to_local() if isinstance(each, DTensor) else each).nbytes for each in tensors)
