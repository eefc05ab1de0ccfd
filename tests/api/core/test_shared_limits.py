"""Limits of several processes together: through Redis, and each for itself while that is away."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from api.core.auth import Principal
from api.core.errors import Problem
from api.core.limits import RateLimiter
from api.core.settings import ApiSettings
from api.core.shared_limits import SharedLimits
from api.services.state import AppState
from deploy.embedded_redis import EmbeddedBroker
from tests.api.core.test_limits import Clock


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with tempfile.TemporaryDirectory(prefix="lcl-") as folder, EmbeddedBroker(Path(folder)) as broker:
        yield broker


class Process:
    """One process of the service: 6 requests a minute, 4 at once of a key, 3 streams of an owner."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.limiter = RateLimiter(6, 4, 3, clock)
        self.shared = SharedLimits(url, self.limiter)

    @contextmanager
    def slot(self, key: str = "a", stream: bool = False) -> Iterator[None]:
        with self.limiter.acquire(Principal("ada", "viewer", key)) as held:
            if stream:
                held.become_stream()
            yield

    def admits(self, key: str = "a", stream: bool = False) -> bool:
        try:
            with self.slot(key, stream):
                return True
        except Problem:
            return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def processes(broker: EmbeddedBroker, clock: Clock) -> Iterator[list[Process]]:
    processes = [Process(broker.url, clock) for _ in range(2)]
    exchange(processes)
    yield processes
    for process in processes:
        process.shared.close()


def exchange(processes: list[Process], times: int = 2) -> None:
    """Twice: what the last one reports, the first one reads in the second round."""
    for _ in range(times):
        assert all(process.shared.exchange() for process in processes)


def test_the_requests_of_a_minute_are_those_of_all_processes(processes: list[Process], clock: Clock) -> None:
    first, second = processes
    assert [first.admits() for _ in range(4)] == [True] * 4
    exchange(processes)
    assert [second.admits() for _ in range(3)] == [True, True, False]
    assert second.admits("b"), "another key has its own"
    exchange(processes)
    assert not first.admits()
    clock.now += 10  # one request of the minute has come back: to one of both
    assert first.admits()
    exchange(processes)
    assert not second.admits()


def test_slots_and_streams_of_all_processes_count(processes: list[Process]) -> None:
    first, second = processes
    with ExitStack() as open_:
        for key in ("a", "a", "b"):
            open_.enter_context(first.slot(key, stream=True))
        exchange(processes)
        assert not second.admits("a", stream=True), "half of the slots of a key, on both"
        assert not second.admits("c", stream=True), "three streams of the owner are open"
        open_.enter_context(second.slot("a"))
        open_.enter_context(second.slot("a"))
        assert not second.admits("a"), "two streams there and two requests here"
    exchange(processes)
    assert second.admits("c", stream=True)


def test_what_a_process_held_that_was_killed_counts_no_more(processes: list[Process], broker: EmbeddedBroker) -> None:
    first, second = processes
    with first.slot("a", stream=True), first.slot("b", stream=True), first.slot("c", stream=True):
        exchange(processes)
        assert not second.admits("d", stream=True)
        with redis.Redis(unix_socket_path=str(broker.socket), decode_responses=True) as client:
            (report,) = [each for each in client.scan_iter("lcl:limits:process:*") if each.endswith(first.shared._id)]
            assert 0 < client.ttl(report) <= 5
            client.delete(report)  # as when it expires
        assert second.shared.exchange()
        assert second.admits("d", stream=True)


def test_without_redis_each_process_counts_for_itself_until_it_is_back(
    processes: list[Process], broker: EmbeddedBroker
) -> None:
    first, second = processes
    with first.slot("a", stream=True), first.slot("b", stream=True), first.slot("c", stream=True):
        exchange(processes)
        broker.stop()
        assert [process.shared.exchange() for process in processes] == [False, False]
        assert not first.admits("d", stream=True)
        assert second.admits("d", stream=True)
        broker.start()
        exchange(processes)
        assert not second.admits("d", stream=True)


def test_two_services_with_one_redis_share_their_limits(
    tmp_path: Path, broker: EmbeddedBroker, eventually: Callable[..., None]
) -> None:
    states = [
        AppState(ApiSettings(home=tmp_path / name, broker_url=broker.url, streams_at_once=1)) for name in ("one", "two")
    ]
    one, two = (state.rate_limiter for state in states)

    def admits() -> bool:
        try:
            with two.acquire(Principal("ada", "viewer", "b")) as held:
                held.become_stream()
        except Problem:
            return False
        return True

    try:
        for state in states:
            state.prepare()
        with one.acquire(Principal("ada", "viewer", "a")) as held:
            held.become_stream()
            eventually(lambda: not admits(), "the other service's stream is counted")
        eventually(admits, "the closed stream is counted no more")
    finally:
        for state in states:
            state.close()


def test_an_address_that_is_not_one_of_redis_ends_nothing(clock: Clock) -> None:
    process = Process("amqp://localhost", clock)
    assert not process.shared.exchange()
    assert process.admits()
    process.shared.close()
