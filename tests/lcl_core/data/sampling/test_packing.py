"""Batches are full, ordered, and a pure function of where they start."""

import itertools
import json
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.loader import (
    Cursor,
    SourceCount,
    best_fit_subset,
    choose_samples,
    first_cursors,
    pack_documents,
    redistribute_cursors,
)
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.specs.pretrain import BatchSpec

BUDGET = BatchSpec(tokens=100, images=4)


def sample(name, tokens, images):
    return Sample(str(name), 0, np.zeros(tokens, np.int32), *white(images))


def white(images):
    """Levels, and the table of each image."""
    return np.full((images, 3, 2, 2), 255, np.uint8), (0,) * images


def item(position):
    if position % 5 == 3:
        return SkippedSample(str(position), "unreadable")
    return sample(position, 10 + 7 * position % 60, 1 + position % 3)


STREAM = [item(position) for position in range(300)]


def test_a_document_beyond_the_budget_is_counted_not_fatal():
    stream = [sample(0, 101, 1), sample(1, 10, 5), sample(2, 90, 1), sample(3, 90, 1)]
    first = next(pack_documents(stream, 0, BUDGET, lookahead=1))
    assert [each.id for each in first.samples] == ["2"]
    assert set(first.skipped) == {"more tokens than a batch holds", "more images than a batch holds"}


def test_a_stream_without_a_usable_document_ends_with_the_reasons():
    nothing = (SkippedSample(str(number), "unreadable") for number in itertools.count())
    with pytest.raises(UserError, match="unreadable"):
        next(pack_documents(nothing, 0, BUDGET, patience=50))


def resumed(cursor):
    return [STREAM[place] for place in (*cursor.held, *range(cursor.position, len(STREAM)))]


@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_a_look_ahead_keeps_budgets_and_loses_and_doubles_nothing(lookahead):
    batches = list(pack_documents(STREAM, 0, BUDGET, lookahead=lookahead))
    assert all(batch.tokens <= 100 and batch.images <= 4 for batch in batches)
    last = batches[-1].cursor
    seen = [int(each.id) for batch in batches for each in batch.samples]
    assert sorted([*seen, *last.held]) == [place for place in range(last.position) if place % 5 != 3]
    assert all(len(batch.cursor.held) < lookahead + 10 for batch in batches)
    assert all(list(batch.samples) == sorted(batch.samples, key=lambda each: int(each.id)) for batch in batches)


def test_no_image_is_normalised_to_choose_samples(monkeypatch):
    def refuse(self):
        raise AssertionError("the images were normalised")

    monkeypatch.setattr(Sample, "pixels", property(refuse))
    assert choose_samples([sample(0, 60, 1), sample(1, 50, 1), sample(2, 30, 4), sample(3, 35, 2)], BUDGET) == [0, 3]


@pytest.mark.parametrize("resume_at", [1, 7, 20])
@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_a_run_goes_on_from_its_cursor_as_if_nothing_had_been(lookahead, resume_at):
    batches = list(pack_documents(STREAM, 0, BUDGET, lookahead=lookahead))
    cursor = Cursor.from_json(json.loads(json.dumps(batches[resume_at - 1].cursor.to_json())))
    again = list(pack_documents(resumed(cursor), cursor, BUDGET, lookahead=lookahead))
    for batch, expected in zip(again, batches[resume_at:], strict=True):
        assert [each.id for each in batch.samples] == [each.id for each in expected.samples]
        assert (batch.cursor, batch.skipped) == (expected.cursor, expected.skipped)


def test_the_longest_waiting_goes_first_so_none_waits_for_ever():
    stream = [sample(0, 60, 1), *(sample(number, 50, 1) for number in range(1, 40))]
    batches = list(pack_documents(stream, 0, BUDGET, lookahead=4))
    assert [each.id for each in batches[0].samples] == ["0"]
    assert [[each.id for each in batch.samples] for batch in batches[1:3]] == [["1", "2"], ["3", "4"]]


def test_a_look_ahead_fills_batches():
    draw = random.Random(0)
    stream = [sample(number, draw.randint(100, 900), 1) for number in range(2000)]
    batches = list(pack_documents(stream, 0, BatchSpec(tokens=2048, images=64)))
    assert sum(batch.tokens for batch in batches) / 2048 / len(batches) > 0.995


@pytest.mark.parametrize("seed", range(30))
def test_the_best_sum_is_the_best(seed):
    draw = random.Random(seed)
    sizes = [(draw.randint(1, 30), draw.randint(0, 3)) for _ in range(9)]
    tokens, images = draw.randint(0, 90), draw.randint(0, 6)

    def total(chosen):
        fits = sum(sizes[place][1] for place in chosen) <= images
        length = sum(sizes[place][0] for place in chosen)
        return length if fits and length <= tokens else 0

    subsets = (subset for count in range(10) for subset in itertools.combinations(range(9), count))
    chosen = tuple(best_fit_subset(sizes, tokens, images))
    assert total(chosen) == max(map(total, subsets))
    assert sum(sizes[place][0] for place in chosen) <= tokens
    assert sum(sizes[place][1] for place in chosen) <= images


@pytest.mark.parametrize("seed", range(20))
def test_where_images_fill_the_batch_free_tokens_take_no_memory(seed):
    draw = random.Random(seed)
    sizes = [(draw.randint(1, 6), draw.randint(0, 3)) for _ in range(8)]
    tokens, images = 1 << 22, draw.randint(0, 9)
    members = (tuple(number in subset for number in range(8)) for subset in subsets_of(8))
    fitting = [each for each in members if sum(size[1] for size in itertools.compress(sizes, each)) <= images]
    best = max(fitting, key=lambda each: (sum(size[0] for size in itertools.compress(sizes, each)), each))
    tracemalloc.start()
    try:
        chosen = best_fit_subset(sizes, tokens, images)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert chosen == [number for number in range(8) if best[number]], "the early ones of equal sums"


def subsets_of(count):
    return (subset for size in range(count + 1) for subset in itertools.combinations(range(count), size))


def test_while_there_is_room_documents_come_in_order():
    samples = [sample(number, 1000, 1) for number in range(60)]
    assert choose_samples(samples, BatchSpec(tokens=32_000, images=64)) == list(range(32))
    assert choose_samples(samples, BatchSpec(tokens=32_000, images=8)) == list(range(8)), "the cap on images holds"


def test_counts_by_source_and_reason():
    stream = [
        Sample("a", 0, np.zeros(30, np.int32), *white(1), ("file_missing", "file_missing")),
        SkippedSample("b", "no caption", "", ("image_unreadable",)),
        Sample("c", 2, np.zeros(30, np.int32), *white(2)),
        Sample("d", 2, np.zeros(40, np.int32), *white(1), ("too_large",)),
        sample(4, 100, 1),
    ]
    batch = next(pack_documents(stream, 0, BUDGET, lookahead=1))
    assert batch.by_source == {0: SourceCount(1, 1, 30), 2: SourceCount(2, 3, 70)}
    assert batch.skipped == {"no caption": 1}
    assert batch.left_out == {"file_missing": 2, "image_unreadable": 1, "too_large": 1}
    assert isinstance(batch.left_out, Counter)


@pytest.mark.parametrize("value", [None, [], "3", [1.5], [True], {"position": 1}])
def test_what_is_no_cursor_is_refused(value):
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.from_json(value)


@pytest.mark.parametrize("lookahead", [1, 16])
def test_ranks_share_the_stream_without_gap_or_overlap(lookahead):
    used, cursors = read(first_cursors(3), 10, lookahead)
    assert_each_once(used, cursors)
    assert [cursor.position % 3 for cursor in cursors] == [0, 1, 2]


@pytest.mark.parametrize("lookahead", [1, 16])
@pytest.mark.parametrize("worlds", [[2, 1, 3], [1, 4], [6, 2, 2, 7], [16, 8]])
def test_another_number_of_ranks_uses_each_document_once(worlds, lookahead):
    used = Counter()
    cursors = first_cursors(worlds[0])
    for ranks in worlds:
        if ranks != len(cursors):
            cursors = redistribute_cursors(cursors, ranks)
        more, cursors = read(cursors, 4 + ranks % 3, lookahead)
        used += more
        assert_each_once(used, cursors)


def test_the_first_unread_documents_are_used_first():
    # rank 0 of two has read 0, 2, 4 and waits with 2; rank 1 has read 1, 3, 5, 7
    cursors = [Cursor(6, (2,)), Cursor(9)]
    assert redistribute_cursors(cursors, 1) == [Cursor(9, (2, 6, 8))]
    assert redistribute_cursors(cursors, 3) == [Cursor(9, (2,)), Cursor(10, (6,)), Cursor(11, (8,))]


def read(cursors, batches, lookahead):
    """How often each position was used or left out by ranks that take more and more batches; and their cursors."""
    used = Counter()
    ends = []
    for rank, cursor in enumerate(cursors):
        positions = itertools.chain(cursor.held, itertools.count(cursor.position, len(cursors)))
        passed = []

        def items(positions=positions, passed=passed):
            for position in positions:
                passed.append(position)
                yield item(position)

        loaded = pack_documents(items(), cursor, BUDGET, lookahead=lookahead, stride=len(cursors))
        for batch in itertools.islice(loaded, batches + rank):
            used.update(int(each.id) for each in batch.samples)
            cursor = batch.cursor
        waits = {*cursor.held, *range(cursor.position, max(passed) + 1, len(cursors))}
        used.update(position for position in passed if position % 5 == 3 and position not in waits)
        ends.append(cursor)
    return used, ends


def assert_each_once(used, cursors):
    assert set(used.values()) == {1}
    end = max(cursor.position for cursor in cursors)
    unread = {place for cursor in cursors for place in range(cursor.position, end, len(cursors))}
    assert sorted([*used, *unread, *(place for cursor in cursors for place in cursor.held)]) == list(range(end))
