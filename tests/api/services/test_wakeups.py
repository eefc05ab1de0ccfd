"""Workers are told of runs behind the back of requests: at once, in few messages, and without a broker not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import anyio
import pytest

from api.services.runs import WAKEUPS_PER_INTERVAL, WakeupSender
from lcl_core.db.wakeup import WakeupProducer


class Listening(WakeupProducer):
    """Notes who rang; takes no message while it is ``down``, and none to its end while it is ``held``."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1")
        self.heard: list[str] = []
        self.down = False
        self.let_go = threading.Event()
        self.let_go.set()

    def wake(self, run_id: str) -> bool:
        self.heard.append(run_id)
        assert self.let_go.wait(180)
        return not self.down


@pytest.fixture
def producer() -> Listening:
    return Listening()


@pytest.fixture
def sender(producer: Listening) -> Iterator[WakeupSender]:
    sender = WakeupSender(producer)
    yield sender
    producer.let_go.set()
    sender.close()


def ring(sender: WakeupSender, *run_ids: str) -> None:
    anyio.run(sender.wake, run_ids)


def test_each_run_is_reported_of(sender: WakeupSender, producer: Listening, eventually: Callable[..., None]) -> None:
    runs = [f"run_{number}" for number in range(3 * WAKEUPS_PER_INTERVAL)]
    for run in runs:
        ring(sender, run)
    eventually(lambda: producer.heard == runs)
    ring(sender, "run_later")
    eventually(lambda: producer.heard[-1] == "run_later")


def test_nobody_waits_for_a_slow_broker_and_of_a_long_rush_the_latest_are_reported(
    sender: WakeupSender, producer: Listening, eventually: Callable[..., None]
) -> None:
    producer.let_go.clear()
    ring(sender, "run_first")
    eventually(lambda: producer.heard == ["run_first"])
    for number in range(1000):
        ring(sender, f"run_{number}")
    producer.let_go.set()
    eventually(lambda: producer.heard[-1] == "run_999")
    assert len(producer.heard) <= 65


def test_a_broker_that_is_down_is_tried_once_a_moment(
    sender: WakeupSender, producer: Listening, eventually: Callable[..., None]
) -> None:
    producer.down = True
    ring(sender, "run_1", "run_2", "run_3")
    eventually(lambda: producer.heard == ["run_1"])
    producer.down = False
    ring(sender, "run_4")
    eventually(lambda: producer.heard == ["run_1", "run_4"])


def test_what_waits_at_the_end_is_still_reported(producer: Listening, eventually: Callable[..., None]) -> None:
    sender = WakeupSender(producer)
    ring(sender, "run_1")
    eventually(lambda: producer.heard == ["run_1"])
    ring(sender, "run_2")
    sender.close()
    assert producer.heard == ["run_1", "run_2"]


def test_one_that_never_rang_closes_at_once(producer: Listening) -> None:
    WakeupSender(producer).close()
    assert producer.heard == []
