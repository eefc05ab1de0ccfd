"""The way of documents to a step: ahead in a thread, and as levels to a GPU."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from lcl_core.data.sampling.loader import Cursor, DocumentBatch
from lcl_core.data.sampling.sources import Sample
from lcl_core.data.transforms import DIVIDED, MULTIPLIED, normalise_levels
from lcl_core.objectives import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.train_step import Collator, normalise_on_device, prefetch

GPU = torch.device("cuda")


def test_a_device_normalises_to_the_same_bits():
    levels = np.random.default_rng(0).integers(0, 256, (5, 3, 9, 7), np.uint8)
    tables = [DIVIDED, MULTIPLIED, MULTIPLIED, DIVIDED, MULTIPLIED]
    found = normalise_on_device(torch.from_numpy(levels), torch.tensor(tables, dtype=torch.int32))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), normalise_levels(levels, tables))


@pytest.fixture
def collated(small_config, documents, pixels):
    """The documents of a case, whose images are noise, packed for a CPU or a GPU."""

    def call(pin):
        draw, size = np.random.default_rng(0), pixels.shape[-1]
        samples = []
        for position, row in enumerate(documents):
            images = int((row == small_config.soi_token_id).sum())
            levels = draw.integers(0, 256, (images, 3, size, size), np.uint8)
            tables = tuple(number % 2 for number in range(images))
            known = {} if position == 0 else {"concepts": tuple(range(position * 10, position * 10 + images))}
            ids = row.numpy().astype(np.int32)
            samples.append(Sample(f"{position}", 0, ids, levels, tables, position=position, **known))
        objective = build_objective(ObjectiveSpec(), small_config)
        collator = Collator(objective, small_config, seed=0, pin=pin)
        return collator(DocumentBatch(samples, Cursor(len(samples))))

    return call


def test_a_gpu_gets_a_byte_a_level_from_pinned_memory(collated, monkeypatch):
    pinned = []
    pages = set()
    copies = []
    to = Tensor.to

    def pin(self):
        pinned.append(self.dtype)
        copy = self.clone()
        pages.add(copy.data_ptr())
        return copy

    def recorded(self, *where, **how):
        copies.append(how)
        assert self.data_ptr() in pages, "a copy from other memory may wait for the device"
        return to(self, *where, **how)

    cpu = collated(False)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    gpu = collated(True)
    assert gpu.packed.pixel_values.dtype == torch.uint8
    assert pinned.count(torch.uint8) == 1
    normalise_on_device(gpu.packed.pixel_values[:1], torch.zeros(1, dtype=torch.int32))  # which fills its cache
    monkeypatch.setattr(Tensor, "to", recorded)
    moved = gpu.to(torch.device("cpu"))
    assert copies
    assert all(how.get("non_blocking") for how in copies)
    monkeypatch.undo()
    assert torch.equal(moved.pixel_values, cpu.packed.pixel_values)
    assert torch.equal(moved.token_ids, cpu.to(torch.device("cpu")).token_ids)
    assert gpu.packed.layout.padding is not None
    assert cpu.packed.layout.padding is not None
    assert torch.equal(gpu.packed.layout.padding.inverse, cpu.packed.layout.padding.inverse)
    assert gpu.packed.layout.groups == cpu.packed.layout.groups


def test_one_item_is_made_while_another_is_used():
    made = [threading.Event() for _ in range(8)]

    def items():
        for number in itertools.count():
            if number < len(made):
                made[number].set()
            yield number

    with prefetch(items(), GPU) as ahead:
        assert next(ahead) == 0
        assert made[1].wait(60), "the next one is made although nobody asks for it"
        assert list(itertools.islice(ahead, 7)) == list(range(1, 8))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("torn")

    with prefetch(items(), GPU) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="torn"):
            next(ahead)
