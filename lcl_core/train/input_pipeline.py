"""Prepares documents for a step: packs them, moves them to its device, and normalises their images.

For a GPU, documents are packed two steps ahead in a thread, and images stay uint8, a quarter of the bytes, in pinned
memory, from which copies run asynchronously; the GPU normalises them by the same tables, bitwise as the CPU. A step
moves each micro-batch when it computes it, so that the device has the images of one at a time.

On a CPU the thread that computes the steps packs and normalises too. A second thread would start a second OpenMP team,
and the two teams would compete for the cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lcl_core.data.sampling.captions import MAX_CAPTION_TERMS, MAX_IMAGE_TERMS
from lcl_core.data.sampling.packing import DocumentBatch
from lcl_core.data.sampling.shuffle import mix64
from lcl_core.data.sampling.sources import Sample
from lcl_core.data.transforms import LEVEL_TABLES, normalise_levels
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.base import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class HostBatch:
    """A packed batch on the host.

    Attributes:
        packed: its ``pixel_values`` are levels, uint8, where there are ``tables``; else normalised.
        tables: int32 [n] the number of each image's table in ``LEVEL_TABLES``.
    """

    packed: PackedBatch
    tables: Tensor | None = None

    def to(self, device: torch.device) -> PackedBatch:
        """The batch on the device that computes, its images normalised."""
        batch = self.packed.to(device)
        if self.tables is None:
            return batch
        tables = self.tables.to(device, non_blocking=True)
        return replace(batch, pixel_values=normalise_on_device(batch.pixel_values, tables))


def normalise_on_device(levels: Tensor, tables: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] and the number of each image's table [n] → float32 [n, 3, H, W]."""
    channels = torch.arange(3, dtype=torch.int32, device=levels.device)
    offsets = (tables[:, None] * 3 + channels) * 256
    places = (levels + offsets[:, :, None, None]).flatten()
    return _level_values(levels.device).index_select(0, places).view(levels.shape)


@cache
def _level_values(device: torch.device) -> Tensor:
    """``LEVEL_TABLES`` on the device, flat."""
    return torch.from_numpy(LEVEL_TABLES).to(device).flatten()


@dataclass(frozen=True)
class Collator:
    """Packs documents for one objective and model.

    Attributes:
        seed: of the objective's random choices.
        pin: leave images as levels, in pinned memory, for a GPU.
    """

    objective: Objective
    config: LCLConfig
    seed: int
    pin: bool = False

    def __call__(self, batch: DocumentBatch) -> HostBatch:
        """Pack the documents, longest first: documents of similar length share a group in attention."""
        samples = sorted(batch.samples, key=lambda sample: -len(sample.token_ids))
        rows = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in samples]
        levels = np.concatenate([sample.levels for sample in samples])
        tables = [table for sample in samples for table in sample.tables]
        pixels = torch.from_numpy(levels if self.pin else normalise_levels(levels, tables))
        keys = [mix64(self.seed, sample.position) for sample in samples]
        packed = self.objective.collate(rows, pixels, self.config, keys)
        concepts = [concept for sample in samples for concept in sample.concepts or [0] * len(sample.levels)]
        packed = replace(packed, concepts=torch.tensor(concepts, dtype=torch.int64))
        if self.objective.reads_terms:
            image_terms, caption_terms = _terms(samples)
            packed = replace(packed, image_terms=image_terms, caption_terms=caption_terms)
        if not self.pin:
            return HostBatch(packed)
        return HostBatch(packed.pin_memory(), torch.tensor(tables, dtype=torch.int32).pin_memory())


def _terms(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Terms of all images, in order, and of their captions, as ``PackedBatch`` has them; documents have none."""
    images = sum(len(sample.levels) for sample in samples)
    filled = torch.zeros(images, MAX_IMAGE_TERMS + MAX_CAPTION_TERMS, dtype=torch.int64)
    row = 0
    for sample in samples:
        image, caption = sample.terms
        filled[row, : len(image)] = torch.tensor(image, dtype=torch.int64)
        filled[row, MAX_IMAGE_TERMS : MAX_IMAGE_TERMS + len(caption)] = torch.tensor(caption, dtype=torch.int64)
        row += len(sample.levels)
    return filled[:, :MAX_IMAGE_TERMS], filled[:, MAX_IMAGE_TERMS:]


@dataclass(frozen=True)
class StepInput:
    """What one step reads on this rank.

    Attributes:
        documents: its micro-batches as they were read, and ``batches`` packed.
        flops: useful floating-point operations of the step.
    """

    documents: Sequence[DocumentBatch]
    batches: Sequence[HostBatch]
    flops: float


def step_inputs(documents: Iterator[DocumentBatch], accumulate: int, collator: Collator) -> Iterator[StepInput]:
    """``accumulate`` micro-batches a step, packed."""
    while group := list(islice(documents, accumulate)):
        batches = [collator(batch) for batch in group]
        flops = sum(collator.objective.flops(collator.config, batch.packed) for batch in batches)
        yield StepInput(group, batches, flops)


@contextmanager
def prefetch(items: Iterator[T], device: torch.device) -> Iterator[Iterator[T]]:
    """The endless items, computed up to two ahead in a thread if ``device`` computes the steps asynchronously."""
    if device.type != "cuda":
        yield items
        return
    thread = ThreadPoolExecutor(1, "prefetch")
    coming = deque(thread.submit(next, items) for _ in range(2))

    def in_order() -> Iterator[T]:
        while True:
            item = coming.popleft().result()
            coming.append(thread.submit(next, items))
            yield item

    try:
        yield in_order()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)  # a remote read may take longer than the run should wait
