"""Reading the stream ahead of the step, in worker processes.

Workers make samples, the trainer packs them in stream order, so the batches do not depend on how many workers there
are.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lcl_core.data.sampling.packing import Cursor, DocumentBatch, pack_documents
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.specs.pretrain import BatchSpec

_CHUNK = 4  # documents a worker sends at a time: at 224 pixels some 10 MB, of which four wait in each worker


class _ChunkDataset(Dataset[list[Sample | SkippedSample]]):
    """Item: a chunk of positions → their samples."""

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __getitem__(self, positions: tuple[int, ...]) -> list[Sample | SkippedSample]:
        return [self.stream[position] for position in positions]


class _PositionSampler(Sampler[tuple[int, ...]]):
    """Those that wait, then position, position + 1, … without end, in chunks."""

    def __init__(self, cursor: Cursor, chunk: int) -> None:
        self.cursor, self.chunk = cursor, chunk

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        positions = itertools.chain(self.cursor.held, itertools.count(self.cursor.position))
        return iter(lambda: tuple(itertools.islice(positions, self.chunk)), ())


def load_batches(
    stream: SampleStream, start: int | Cursor, budget: BatchSpec, workers: int, lookahead: int = 0
) -> Iterator[DocumentBatch]:
    """Endless batches from ``start`` on; the same whatever ``workers`` is (0: in this process).

    Args:
        stream: of one rank; the positions are that rank's.
        start: a position, or the cursor of the last batch. With a look-ahead the position alone would lose the
            documents that wait.
        lookahead: documents that may wait for a batch that they fill; 0: none, in order.
    """
    cursor = Cursor(start) if isinstance(start, int) else start
    chunks: Iterable[list[Sample | SkippedSample]] = DataLoader(
        _ChunkDataset(stream),
        batch_size=None,
        sampler=_PositionSampler(cursor, _CHUNK if workers else 1),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_init_worker if workers else None,
    )
    return pack_documents(itertools.chain.from_iterable(chunks), cursor, budget, lookahead=lookahead)


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A worker whose full queue nobody reads any more would wait for ever, and hold the run directory's lock."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
