"""Batches are full, ordered, and a pure function of where they start."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lcl_core.data.packing import pack_documents
from lcl_core.data.samples import Sample, Skipped
from lcl_core.errors import UserError
from lcl_core.specs import BatchSpec

BUDGET = BatchSpec(tokens=100, images=4)


def sample(name: int, tokens: int, images: int) -> Sample:
    return Sample(str(name), 0, np.zeros(tokens, np.int32), np.zeros((images, 3, 2, 2), np.float32))


def item(position: int) -> Sample | Skipped:
    if position % 5 == 3:
        return Skipped(str(position), "unreadable")
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
    nothing = (Skipped(str(number), "unreadable") for number in itertools.count())
    with pytest.raises(UserError, match="unreadable"):
        next(pack_documents(nothing, 0, BUDGET, patience=50))
