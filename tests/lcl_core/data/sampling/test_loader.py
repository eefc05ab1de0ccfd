"""Batches ahead of the step: any number of workers, any number of ranks, from any cursor."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from lcl_core.data import Sample, SampleStream, Tokenizer
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.sampling.packing import Cursor, DocumentBatch
from lcl_core.specs.pretrain import BatchSpec, DataSpec

BUDGET = BatchSpec(tokens=128, images=8)


@pytest.fixture
def open_stream(kit: Any, tokenizer: Tokenizer) -> Any:
    names = ("red.png", "green.png", "blue.png", "white.png")
    documents = [
        kit.document(
            ["a red square"] * (1 + number % 7), *(kit.image(names[place], 0) for place in range(1 + number % 3))
        )
        for number in range(23)
    ]
    corpus = kit.corpus(documents, [kit.pair(name, f"a square {name}", name) for name in names])

    def call(rank: int = 0, world: int = 1) -> SampleStream:
        data = DataSpec(sources=({"dataset": "d", "weight": 3}, {"dataset": "d", "view": "pairs"}))
        return SampleStream(data, {"d": corpus}, tokenizer, 4, 16, 120, seed=0, rank=rank, world=world)

    return call


def reported(batch: DocumentBatch) -> list[Any]:
    samples = [(sample.id, sample.token_ids.tobytes(), sample.pixels.tobytes()) for sample in batch.samples]
    return [samples, batch.cursor, batch.skipped]


def first(count: int, *arguments: Any, **named: Any) -> list[list[Any]]:
    return [reported(batch) for batch in itertools.islice(load_batches(*arguments, **named), count)]


@pytest.mark.parametrize("lookahead", [0, 8])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(open_stream: Any, lookahead: int, workers: int) -> None:
    expected = first(12, open_stream(), 0, BUDGET, 0, lookahead)
    assert first(12, open_stream(), 0, BUDGET, workers, lookahead) == expected


@pytest.mark.parametrize("lookahead", [0, 8])
@pytest.mark.parametrize(("workers", "stop"), [(0, 1), (0, 9), (2, 9)])
def test_a_resumed_loader_gives_the_same_batches(open_stream: Any, lookahead: int, workers: int, stop: int) -> None:
    whole = first(16, open_stream(), 0, BUDGET, 0, lookahead)
    cursor = whole[stop - 1][1]
    assert bool(cursor.held) == bool(lookahead)
    again = first(16 - stop, open_stream(), Cursor.from_json(cursor.to_json()), BUDGET, workers, lookahead)
    assert again == whole[stop:]


def test_ranks_share_the_stream_without_gap_or_overlap(open_stream: Any) -> None:
    whole = open_stream()
    shares = [open_stream(rank, 3) for rank in range(3)]
    for position in range(90):
        share = shares[position % 3][position // 3]
        assert (share.id, share.position) == (whole[position].id, position)
    epoch = 4 * whole.documents_per_epoch
    ids = Counter(shares[place % 3][place // 3].id for place in range(epoch))
    assert sum(ids.values()) == epoch
    assert shares[1].documents_per_epoch == whole.documents_per_epoch


def test_a_rank_resumes_where_it_was(open_stream: Any) -> None:
    whole = first(10, open_stream(1, 2), 0, BUDGET, 0, 4)
    again = first(5, open_stream(1, 2), whole[4][1], BUDGET, 0, 4)
    assert again == whole[5:]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(open_stream: Any, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        open_stream(rank, world)


def test_a_measure_is_the_size_of_the_first_epochs_sample(open_stream: Any) -> None:
    stream = open_stream()
    for position in range(12):
        sample = stream[position]
        assert isinstance(sample, Sample)
        images, tokens = stream.measure(position)
        assert images == len(sample.pixels)
        assert abs(tokens - len(sample.token_ids)) <= 4, "only the caption drawn may differ"
