"""Batches ahead of the step: any number of workers, any number of ranks, from any cursor."""

import gc
import itertools
import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data import Sample, SampleStream
from lcl_core.data.sampling import loader
from lcl_core.data.sampling.loader import Cursor, LoaderPool, default_workers, load_batches
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec

BUDGET = BatchSpec(tokens=128, images=8)


@pytest.fixture
def open_stream(kit, tokenizer):
    names = ("red.png", "green.png", "blue.png", "white.png")
    documents = [
        kit.document(
            ["a red square"] * (1 + number % 7), *(kit.image(names[place], 0) for place in range(1 + number % 3))
        )
        for number in range(23)
    ]
    corpus = kit.corpus(documents, [kit.pair(name, f"a square {name}", name) for name in names])

    def call():
        data = DataSpec(sources=({"dataset": "d", "weight": 3}, {"dataset": "d", "view": "pairs"}))
        return SampleStream(data, {"d": corpus}, tokenizer, 4, 16, 120, seed=0)

    return call


def reported(batch):
    samples = [(sample.id, sample.token_ids.tobytes(), sample.pixels.tobytes()) for sample in batch.samples]
    return [samples, batch.cursor, batch.skipped]


def first(count, *arguments, **named):
    return [reported(batch) for batch in itertools.islice(load_batches(*arguments, **named), count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(open_stream, workers):
    expected = first(12, open_stream(), 0, BUDGET, 0)
    assert first(12, open_stream(), 0, BUDGET, workers) == expected


@pytest.mark.parametrize(("workers", "stop"), [(0, 1), (0, 9), (2, 9)])
def test_a_resumed_loader_gives_the_same_batches(open_stream, workers, stop):
    whole = first(16, open_stream(), 0, BUDGET, 0)
    cursor = whole[stop - 1][1]
    assert cursor.held
    again = first(16 - stop, open_stream(), Cursor.from_json(cursor.to_json()), BUDGET, workers)
    assert again == whole[stop:]


def test_a_rank_resumes_where_it_was(open_stream):
    whole = first(10, open_stream(), Cursor(1), BUDGET, 0, stride=2)
    again = first(5, open_stream(), whole[4][1], BUDGET, 2, stride=2)
    assert again == whole[5:]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_process_reaches_the_trainer(open_stream, workers, monkeypatch):
    stream = open_stream()

    def broken(self, position):
        raise UserError("the image is torn", code="image_unreadable", file="a.png")

    monkeypatch.setattr(SampleStream, "__getitem__", broken)
    with pytest.raises(UserError, match="torn") as caught:
        next(load_batches(stream, 0, BUDGET, workers))
    assert (caught.value.code, caught.value.file) == ("image_unreadable", "a.png")


def test_a_process_that_is_killed_is_named(open_stream):
    stream = open_stream()
    with LoaderPool(stream.corpora, 2) as pool:
        batches = load_batches(stream, 0, BUDGET, pool)
        next(batches)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(RuntimeError, match=r"loader process \d+ ended with status -9"):
            list(itertools.islice(batches, 100))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_batch_is_made_while_the_step_computes(open_stream, workers, monkeypatch):
    """More than a pipe holds, and nothing of it is received: the samples of the next batch wait in the processes."""
    made = multiprocessing.get_context("fork").Semaphore(0)
    read = SampleStream.__getitem__

    def counted(self, position):
        made.release()
        return replace(read(self, position), token_ids=np.zeros(20_000, np.int64))  # one of them fills a pipe

    monkeypatch.setattr(SampleStream, "__getitem__", counted)
    stream = open_stream()
    budget = BatchSpec(tokens=1 << 22, images=100)
    with LoaderPool(stream.corpora, workers) as pool:
        samples = pool.samples(stream, iter(range(1000)), budget.images)
        next(samples)
        assert all(made.acquire(timeout=60) for _ in range(1 + budget.images))


def test_large_images_are_not_made_far_ahead(open_stream, monkeypatch):
    requested = []

    def samples(self, stream, positions, ahead, stride):
        requested.append(ahead)
        return (stream[position] for position in positions)

    monkeypatch.setattr(LoaderPool, "samples", samples)
    for size in (12, 500):
        monkeypatch.setattr(loader, "_AHEAD_BYTES", size * 3 * 16 * 16)
        next(load_batches(open_stream(), 0, BatchSpec(tokens=1024, images=64), 0))
    assert requested == [12, 64]


def test_processes_end_with_the_iterator(open_stream):
    batches = load_batches(open_stream(), 0, BUDGET, 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("cores", "ranks", "gpu", "expected"),
    [(2, 1, False, 1), (32, 1, False, 4), (32, 8, False, 1), (16, 1, True, 15), (16, 4, True, 3), (8, 8, True, 1)],
)
def test_the_default_number_of_processes_follows_from_the_cores(cores, ranks, gpu, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_workers(ranks, gpu) == expected


def test_a_measure_is_the_size_of_the_first_epochs_sample(open_stream):
    stream = open_stream()
    for position in range(12):
        sample = stream[position]
        assert isinstance(sample, Sample)
        images, tokens = stream.measure(position)
        assert images == len(sample.pixels)
        assert abs(tokens - len(sample.token_ids)) <= 4, "only the caption drawn may differ"
