"""Reading the stream ahead of the step, in worker processes.

Workers make samples, the trainer packs them in stream order, so the batches do not depend on how many workers there
are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lcl_core.data.packing import DocumentBatch, pack_documents
from lcl_core.data.stream import Sample, SampleStream, Skipped
from lcl_core.specs import BatchSpec

_CHUNK = 32  # samples a worker sends at a time


class _Chunks(Dataset[list[Sample | Skipped]]):
    """Item i is the chunk of the stream that starts at position i."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __getitem__(self, start: int) -> list[Sample | Skipped]:
        return [self.stream[position] for position in range(start, start + _CHUNK)]


class _ChunkStarts(Sampler[int]):
    """start, start + chunk, … without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start, _CHUNK)


def load_batches(stream: SampleStream, position: int, budget: BatchSpec, workers: int) -> Iterator[DocumentBatch]:
    """Endless batches from ``position`` on; the same whatever ``workers`` is (0: in this process)."""
    chunks: Iterable[list[Sample | Skipped]] = DataLoader(
        _Chunks(stream),
        batch_size=None,
        sampler=_ChunkStarts(position),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )
    return pack_documents(itertools.chain.from_iterable(chunks), position, budget)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
