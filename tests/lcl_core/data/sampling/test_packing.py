"""Batches are full, ordered, and a pure function of where they start."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.packing import Cursor, SourceCount, best_fit_subset, choose_samples, pack_documents
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.specs.pretrain import BatchSpec

BUDGET = BatchSpec(tokens=100, images=4)


def sample(name: int, tokens: int, images: int) -> Sample:
    return Sample(str(name), 0, np.zeros(tokens, np.int32), np.zeros((images, 3, 2, 2), np.float32))


def item(position: int) -> Sample | SkippedSample:
    if position % 5 == 3:
        return SkippedSample(str(position), "unreadable")
    return sample(position, 10 + 7 * position % 60, 1 + position % 3)


STREAM = [item(position) for position in range(300)]


def test_budgets_hold_and_order_stays() -> None:
    batches = list(pack_documents(STREAM, 0, BUDGET))
    assert all(batch.tokens <= 100 and batch.images <= 4 for batch in batches)
    names = [int(each.id) for batch in batches for each in batch.samples]
    assert names == [position for position in range(batches[-1].next_position) if position % 5 != 3]
    for batch, following in itertools.pairwise(batches):
        first = following.samples[0]
        full = batch.tokens + len(first.token_ids) > 100 or batch.images + len(first.pixels) > 4
        assert full, "a document that fitted was put off"


@pytest.mark.parametrize("resume_at", [1, 7, 20])
def test_batches_depend_only_on_the_position(resume_at: int) -> None:
    batches = list(pack_documents(STREAM, 0, BUDGET))
    position = batches[resume_at - 1].next_position
    again = list(pack_documents(STREAM[position:], position, BUDGET))
    expected = [[each.id for each in batch.samples] for batch in batches[resume_at:]]
    assert [[each.id for each in batch.samples] for batch in again] == expected
    assert sum((batch.skipped for batch in again), start=batches[0].skipped.__class__())["unreadable"] == sum(
        batch.skipped["unreadable"] for batch in batches[resume_at:]
    )


def test_a_document_beyond_the_budget_is_counted_not_fatal() -> None:
    stream = [sample(0, 101, 1), sample(1, 10, 5), sample(2, 90, 1), sample(3, 90, 1)]
    first = next(pack_documents(stream, 0, BUDGET))
    assert [each.id for each in first.samples] == ["2"]
    assert set(first.skipped) == {"more tokens than a batch holds", "more images than a batch holds"}


def test_a_stream_without_a_usable_document_ends_with_the_reasons() -> None:
    nothing = (SkippedSample(str(number), "unreadable") for number in itertools.count())
    with pytest.raises(UserError, match="unreadable"):
        next(pack_documents(nothing, 0, BUDGET, patience=50))


def resumed(cursor: Cursor) -> list[Sample | SkippedSample]:
    return [STREAM[place] for place in (*cursor.held, *range(cursor.position, len(STREAM)))]


@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_a_look_ahead_keeps_budgets_and_loses_and_doubles_nothing(lookahead: int) -> None:
    batches = list(pack_documents(STREAM, 0, BUDGET, lookahead=lookahead))
    assert all(batch.tokens <= 100 and batch.images <= 4 for batch in batches)
    last = batches[-1].cursor
    seen = [int(each.id) for batch in batches for each in batch.samples]
    assert sorted([*seen, *last.held]) == [place for place in range(last.position) if place % 5 != 3]
    assert all(len(batch.cursor.held) < lookahead + 10 for batch in batches)
    assert all(list(batch.samples) == sorted(batch.samples, key=lambda each: int(each.id)) for batch in batches)


@pytest.mark.parametrize("resume_at", [1, 7, 20])
@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_a_run_goes_on_from_its_cursor_as_if_nothing_had_been(lookahead: int, resume_at: int) -> None:
    batches = list(pack_documents(STREAM, 0, BUDGET, lookahead=lookahead))
    cursor = Cursor.from_json(json.loads(json.dumps(batches[resume_at - 1].cursor.to_json())))
    again = list(pack_documents(resumed(cursor), cursor, BUDGET, lookahead=lookahead))
    for batch, expected in zip(again, batches[resume_at:], strict=True):
        assert [each.id for each in batch.samples] == [each.id for each in expected.samples]
        assert (batch.cursor, batch.skipped) == (expected.cursor, expected.skipped)


def test_turning_the_look_ahead_off_still_uses_those_that_wait() -> None:
    cursor = next(pack_documents(STREAM, 0, BUDGET, lookahead=8)).cursor
    assert cursor.held
    first = next(pack_documents(resumed(cursor), cursor, BUDGET, lookahead=0))
    assert int(first.samples[0].id) == cursor.held[0]


def test_the_longest_waiting_goes_first_so_none_waits_for_ever() -> None:
    stream = [sample(0, 60, 1), *(sample(number, 50, 1) for number in range(1, 40))]
    batches = list(pack_documents(stream, 0, BUDGET, lookahead=4))
    assert [each.id for each in batches[0].samples] == ["0"]
    assert [[each.id for each in batch.samples] for batch in batches[1:3]] == [["1", "2"], ["3", "4"]]


def test_a_look_ahead_fills_batches() -> None:
    draw = random.Random(0)
    stream = [sample(number, draw.randint(100, 900), 1) for number in range(2000)]
    budget = BatchSpec(tokens=2048, images=64)
    filled = {}
    for lookahead in (0, 16):
        batches = list(pack_documents(stream, 0, budget, lookahead=lookahead))
        filled[lookahead] = sum(batch.tokens for batch in batches) / budget.tokens / len(batches)
    assert filled[0] < 0.92
    assert filled[16] > 0.995


@pytest.mark.parametrize("seed", range(30))
def test_the_best_sum_is_the_best(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [(draw.randint(1, 30), draw.randint(0, 3)) for _ in range(9)]
    tokens, images = draw.randint(0, 90), draw.randint(0, 6)

    def total(chosen: tuple[int, ...]) -> int:
        fits = sum(sizes[place][1] for place in chosen) <= images
        length = sum(sizes[place][0] for place in chosen)
        return length if fits and length <= tokens else 0

    subsets = (subset for count in range(10) for subset in itertools.combinations(range(9), count))
    chosen = tuple(best_fit_subset(sizes, tokens, images))
    assert total(chosen) == max(map(total, subsets))
    assert sum(sizes[place][0] for place in chosen) <= tokens
    assert sum(sizes[place][1] for place in chosen) <= images


def test_while_there_is_room_documents_come_in_order() -> None:
    samples = [sample(number, 1000, 1) for number in range(60)]
    assert choose_samples(samples, BatchSpec(tokens=32_000, images=64)) == list(range(32))
    assert choose_samples(samples, BatchSpec(tokens=32_000, images=8)) == list(range(8)), "the cap on images holds"


def test_counts_by_source_and_reason() -> None:
    stream = [
        Sample("a", 0, np.zeros(30, np.int32), np.zeros((1, 3, 2, 2), np.float32), ("file_missing", "file_missing")),
        SkippedSample("b", "no caption", "", ("image_unreadable",)),
        Sample("c", 2, np.zeros(30, np.int32), np.zeros((2, 3, 2, 2), np.float32)),
        Sample("d", 2, np.zeros(40, np.int32), np.zeros((1, 3, 2, 2), np.float32), ("image_too_large",)),
        sample(4, 100, 1),
    ]
    for lookahead in (0, 1):
        batch = next(pack_documents(stream, 0, BUDGET, lookahead=lookahead))
        assert batch.by_source == {0: SourceCount(1, 1, 30), 2: SourceCount(2, 3, 70)}
        assert batch.skipped == {"no caption": 1}
        assert batch.left_out == {"file_missing": 2, "image_unreadable": 1, "image_too_large": 1}
        assert isinstance(batch.left_out, Counter)


@pytest.mark.parametrize("value", [None, [], "3", [1.5], [True], {"position": 1}])
def test_what_is_no_cursor_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.from_json(value)


def test_an_old_position_is_a_cursor() -> None:
    assert Cursor.from_json(7) == Cursor(7)
