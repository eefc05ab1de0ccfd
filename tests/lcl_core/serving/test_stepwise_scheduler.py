"""Long work leaves room for others, and ends when nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.serving.dynamic_batcher import DynamicBatcher, EncoderUnloaded

SECONDS = 30  # a deadline, not a duration


class Counter:
    """Long items are numbers of steps; each step of a batch waits for leave. Short ones are answered at once."""

    def __init__(self, free=True):
        self.batches: list[list[Any]] = []
        self.order: list[str] = []
        self.leave, self.stepped = threading.Semaphore(1000 if free else 0), threading.Semaphore(0)

    def __call__(self, key, items):
        return self.count(key, items) if key.startswith("long") else [self.order.append(key) or item for item in items]

    def count(self, key, items):
        self.batches.append(items)
        for step in range(1, max(map(abs, items)) + 1):
            assert self.leave.acquire(timeout=SECONDS)
            self.order.append(key)
            if -step in items:
                raise ValueError("failed on the way")
            self.stepped.release()
            yield [(place, f"{item} done") for place, item in enumerate(items) if item == step]

    def batcher(self, **limits):
        return DynamicBatcher(self, in_steps=lambda key: key.startswith("long"), **limits)


def test_short_work_does_not_wait_for_long_work():
    counter = Counter(free=False)
    batcher = counter.batcher()
    (long,) = batcher.submit("long", [3])
    for number in range(2):
        (short,) = batcher.submit("short", [number])
        counter.leave.release()
        assert short.result(SECONDS) == number
        assert not long.done()
    counter.leave.release()
    assert long.result(SECONDS) == "3 done"
    assert counter.order.count("long") == 3
    batcher.close()


def test_long_works_go_on_side_by_side_and_the_shorter_is_done_first():
    counter = Counter(free=False)
    batcher = counter.batcher()
    (first,) = batcher.submit("long a", [5])
    counter.leave.release()
    assert counter.stepped.acquire(timeout=SECONDS)
    (second,) = batcher.submit("long b", [1])
    for _ in range(5):
        counter.leave.release()
    assert (second.result(SECONDS), first.result(SECONDS)) == ("1 done", "5 done")
    assert counter.order.index("long b") < len(counter.order) - 1, "the first one was not over yet"
    batcher.close()


def test_items_of_a_batch_are_answered_as_they_are_ready():
    counter = Counter(free=False)
    batcher = counter.batcher()
    slow, quick = batcher.submit("long", [2, 1])
    counter.leave.release()
    assert quick.result(SECONDS) == "1 done"
    assert not slow.done()
    counter.leave.release()
    assert slow.result(SECONDS) == "2 done"
    batcher.close()


def test_no_more_is_begun_than_a_batch_holds():
    counter = Counter(free=False)
    batcher = counter.batcher(max_batch=2)
    futures = batcher.submit("long", [1, 1, 1])
    counter.leave.release()
    assert futures[1].result(SECONDS)
    (short,) = batcher.submit("short", [7])
    counter.leave.release()
    assert short.result(SECONDS) == 7
    assert futures[2].result(SECONDS)
    assert counter.batches == [[1, 1], [1]]
    batcher.close()


def test_no_more_is_begun_than_its_memory_allows():
    """The oldest waits until it fits, and is not overtaken by another long work; short work goes on."""
    counter = Counter(free=False)
    batcher = counter.batcher(max_cost=10)
    futures = batcher.submit("long", [1, 1, 1], 5)
    assert counter.leave.acquire(blocking=False) is False
    later = batcher.submit("long later", [1], 1)
    counter.leave.release()
    assert futures[1].result(SECONDS) == "1 done"
    (short,) = batcher.submit("short", [7])
    counter.leave.release()
    counter.leave.release()
    assert short.result(SECONDS) == 7
    assert (futures[2].result(SECONDS), later[0].result(SECONDS)) == ("1 done", "1 done")
    assert counter.batches == [[1, 1], [1], [1]]
    assert counter.order.index("long later") > 1
    counter.leave.release()
    assert batcher.submit("long", [1], 11)[0].result(SECONDS) == "1 done", "alone, whatever it costs"
    batcher.close()


def test_a_batch_fails_together_but_for_what_is_done():
    counter = Counter()
    batcher = counter.batcher()
    later = batcher.submit("long", [1, -2, 3])
    assert later[0].result(SECONDS) == "1 done"
    for future in later[1:]:
        with pytest.raises(ValueError, match="on the way"):
            future.result(SECONDS)
    batcher.close()


def test_closing_finishes_long_work_or_drops_it():
    draining, dropping = Counter(), Counter(free=False)
    (future,) = (batcher := draining.batcher()).submit("long", [5])
    batcher.close()
    assert future.result(0) == "5 done"
    (future,) = (batcher := dropping.batcher()).submit("long", [500])
    dropping.leave.release()
    assert dropping.stepped.acquire(timeout=SECONDS)
    batcher.close(drain=False, wait=False)
    dropping.leave.release()
    with pytest.raises(EncoderUnloaded):
        future.result(SECONDS)
    batcher.close()
    with pytest.raises(UserError):
        batcher.submit("long", [1])
