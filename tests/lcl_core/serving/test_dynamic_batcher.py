"""Batching without a model: what shares a batch, what fails alone, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.serving.dynamic_batcher import DynamicBatcher, EncoderUnloaded, Overloaded, gather_results, wait_all

SECONDS = 30  # a deadline, not a duration


class Recorder:
    """Doubles numbers; keeps what it was asked; the first batch can be held up."""

    def __init__(self, held=False):
        self.batches: list[tuple[Any, list[Any]]] = []
        self.threads: set[int] = set()
        self.entered, self.release = threading.Event(), threading.Event()
        if not held:
            self.release.set()

    def __call__(self, key, items):
        self.batches.append((key, items))
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.release.wait(SECONDS)
        if "bad" in items:
            raise ValueError("a bad item")
        return [item * 2 for item in items]


def held_batcher(recorder, **limits):
    """A batcher whose owner thread is busy with the item 0."""
    batcher = DynamicBatcher(recorder, **limits)
    batcher.submit("held", [0])
    assert recorder.entered.wait(SECONDS)
    return batcher


def test_what_waits_shares_a_batch_up_to_the_limit():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder, max_batch=3)
    futures = [batcher.submit("k", [number])[0] for number in range(1, 6)]
    recorder.release.set()
    assert [future.result(SECONDS) for future in futures] == [2, 4, 6, 8, 10]
    assert recorder.batches[1:] == [("k", [1, 2, 3]), ("k", [4, 5])]
    batcher.close()


def test_different_keys_never_mix_and_the_oldest_goes_first():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder)
    futures = batcher.submit("a", [1]) + batcher.submit("b", [2]) + batcher.submit("a", [3])
    recorder.release.set()
    assert wait_all(futures) == [2, 4, 6]
    assert recorder.batches[1:] == [("a", [1, 3]), ("b", [2])]
    batcher.close()


def test_a_bad_item_fails_alone():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder)
    futures = batcher.submit("k", [1, 2, "bad", 4, 5])
    recorder.release.set()
    with pytest.raises(ValueError, match="a bad item"):
        futures[2].result(SECONDS)
    assert [future.result(SECONDS) for future in futures if future is not futures[2]] == [2, 4, 8, 10]
    assert batcher.submit("k", [6])[0].result(SECONDS) == 12
    batcher.close()


def test_a_result_too_few_fails_the_items_rather_than_shifting_them():
    batcher = DynamicBatcher(lambda key, items: [])
    with pytest.raises(RuntimeError, match="0 results for 1"):
        batcher.submit("k", [1])[0].result(SECONDS)
    batcher.close()


def test_a_full_queue_refuses_and_says_when_to_come_back():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder, max_queue=3)
    waiting = batcher.submit("k", [1, 2])
    with pytest.raises(Overloaded) as caught:
        batcher.submit("k", [3, 4])
    assert caught.value.code == "busy"
    assert caught.value.retry_after >= 1
    assert batcher.waiting == 2, "all items of a request or none"
    last = batcher.submit("k", [3])
    recorder.release.set()
    assert wait_all(waiting + last) == [2, 4, 6]
    assert batcher.waiting == 0
    batcher.close()


def test_a_request_that_never_fits_is_reported_so():
    batcher = DynamicBatcher(Recorder(), max_queue=3)
    with pytest.raises(UserError) as caught:
        batcher.submit("k", [1, 2, 3, 4])
    assert caught.value.code == "too_many_items"
    assert not isinstance(caught.value, Overloaded)
    batcher.close()


def test_cancelled_requests_are_not_run_and_make_room():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder, max_queue=2)
    dropped = batcher.submit("k", [1, 2])
    assert dropped[0].cancel()
    kept = batcher.submit("k", [3])
    recorder.release.set()
    assert wait_all([dropped[1], *kept]) == [4, 6]
    assert recorder.batches[1:] == [("k", [2, 3])]
    with pytest.raises(CancelledError):
        dropped[0].result()
    batcher.close()


def test_cancelling_an_awaiting_task_drops_its_item():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder)
    futures = batcher.submit("k", [1, 2])

    async def give_up():
        task = asyncio.create_task(gather_results(futures))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    recorder.release.set()
    assert batcher.submit("k", [3])[0].result(SECONDS) == 6
    assert all(future.cancelled() for future in futures)
    assert recorder.batches[1:] == [("k", [3])]
    batcher.close()


def test_awaiting_gives_the_results_in_order():
    batcher = DynamicBatcher(Recorder())

    async def ask():
        return list(await asyncio.gather(*(gather_results(batcher.submit("k", [n, n + 1])) for n in range(0, 20, 2))))

    assert asyncio.run(ask()) == [[n * 2, n * 2 + 2] for n in range(0, 20, 2)]
    batcher.close()


def test_many_clients_one_owner_thread():
    recorder = Recorder()
    batcher = DynamicBatcher(recorder, max_batch=8)
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: wait_all(batcher.submit("k", [n]))[0], range(200)))
    assert answers == [n * 2 for n in range(200)]
    assert len(recorder.threads) == 1
    assert max(len(items) for _, items in recorder.batches) <= 8
    assert len(recorder.batches) < 200
    batcher.close()


def test_closing_finishes_what_waits():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder)
    futures = batcher.submit("k", [1, 2])
    batcher.close(wait=False)
    with pytest.raises(EncoderUnloaded):
        batcher.submit("k", [3])
    recorder.release.set()
    batcher.close()
    assert [future.result(0) for future in futures] == [2, 4]


def test_closing_without_draining_fails_what_waits():
    recorder = Recorder(held=True)
    batcher = held_batcher(recorder)
    futures = batcher.submit("k", [1, 2])
    batcher.close(drain=False, wait=False)
    for future in futures:
        with pytest.raises(EncoderUnloaded):
            future.result(SECONDS)
    recorder.release.set()
    batcher.close()
    assert len(recorder.batches) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_is_left_waiting_when_the_owner_thread_dies():
    entered, release = threading.Event(), threading.Event()

    def die(key, items):
        entered.set()
        assert release.wait(SECONDS)
        raise SystemExit

    batcher = DynamicBatcher(die)
    running = batcher.submit("k", [1])
    assert entered.wait(SECONDS)
    waiting = batcher.submit("k", [2])
    release.set()
    for future in (*running, *waiting):
        with pytest.raises(EncoderUnloaded):
            future.result(SECONDS)
    with pytest.raises(EncoderUnloaded):
        batcher.submit("k", [3])
    batcher.close()


def test_each_batch_tells_how_long_its_requests_took():
    recorder, reported = Recorder(held=True), []
    batcher = held_batcher(recorder, observe=lambda key, waited: reported.append((key, waited)))
    batcher.submit("k", [1, 2, 3])
    recorder.release.set()
    batcher.close()
    assert [(key, len(waited)) for key, waited in reported] == [("held", 1), ("k", 3)]
    assert all(0 <= seconds < SECONDS for _, waited in reported for seconds in waited)
