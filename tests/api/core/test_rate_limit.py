"""How much one key may ask: counted by the clock, and at a real service with streams that stay open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.core.auth import Principal
from api.core.errors import Problem
from api.core.rate_limit import RateLimiter
from api.core.settings import ApiSettings
from api.services.state import AppState


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STREAMS = 100  # of an owner


@contextmanager
def slot(limiter: RateLimiter, key: str = "a", *, owner: str = "ada", stream: bool = False) -> Iterator[None]:
    with limiter.acquire(Principal(owner, "viewer", key)) as held:
        if stream:
            held.become_stream()
        yield


def ask(limiter: RateLimiter, key: str = "a") -> None:
    with slot(limiter, key):
        pass


def wait_of(limiter: RateLimiter, key: str = "a", **more: Any) -> str:
    with pytest.raises(Problem) as caught, slot(limiter, key, **more):
        pass
    assert (caught.value.status, caught.value.code) == (429, "too_many_requests")
    assert caught.value.headers is not None
    return caught.value.headers["retry-after"]


def test_a_minutes_requests_come_back_with_time() -> None:
    clock = Clock()
    limiter = RateLimiter(6, 10, STREAMS, clock)
    for _ in range(6):
        ask(limiter)
    assert wait_of(limiter) == "10"
    clock.now = 4.5
    assert wait_of(limiter) == "6", "and what was refused costs nothing"
    clock.now = 10.0
    ask(limiter)
    clock.now = 1000.0
    for _ in range(6):
        ask(limiter)
    assert wait_of(limiter) == "10", "never more than a minute's are saved up"


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(1, 1, STREAMS, Clock())
    ask(limiter, "a")
    ask(limiter, "b")
    wait_of(limiter, "a")


def test_places_are_given_back_whatever_happens() -> None:
    limiter = RateLimiter(100, 2, STREAMS, Clock())
    with slot(limiter, "a"), slot(limiter, "a"):
        assert wait_of(limiter) == "1"
        assert limiter.in_use() == {"request": 2, "stream": 0}
    with pytest.raises(ZeroDivisionError), slot(limiter, "a"):
        raise ZeroDivisionError
    assert limiter.in_use() == {"request": 0, "stream": 0}


def test_streams_hold_half_of_the_places_at_most() -> None:
    limiter = RateLimiter(100, 4, STREAMS, Clock())
    with slot(limiter, "a", stream=True), slot(limiter, "a", stream=True):
        wait_of(limiter, stream=True)
        with slot(limiter, "a"), slot(limiter, "a"):
            wait_of(limiter)
        assert limiter.in_use() == {"request": 0, "stream": 2}
    with slot(RateLimiter(100, 1, STREAMS, Clock()), stream=True):
        pass  # one slot: a stream may have it


def test_streams_of_one_owner_are_bounded_over_all_keys() -> None:
    limiter = RateLimiter(100, 10, 3, Clock())
    with slot(limiter, "a", stream=True), slot(limiter, "b", stream=True), slot(limiter, "c", stream=True):
        wait_of(limiter, "d", stream=True)
        with slot(limiter, "e", owner="bob", stream=True), slot(limiter, "d"):
            assert limiter.in_use() == {"request": 1, "stream": 4}
    with slot(limiter, "d", stream=True):
        assert limiter.in_use() == {"request": 0, "stream": 1}


@pytest.fixture
def narrow(tmp_path: Path, serve: Any, house_of: Callable[..., Any]) -> Iterator[Any]:
    """A service whose keys have 40 requests a minute, 4 at once."""
    settings = ApiSettings(
        home=tmp_path, requests_per_minute=40, requests_at_once=4, event_poll_seconds=0.02, event_stream_seconds=600
    )
    context = AppState(settings)
    with serve(settings) as url:
        yield house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
    context.close()


def places(house: Any) -> str:
    with house.http(None) as stranger:
        lines = stranger.get("/metrics").text.splitlines()
    return " ".join(line.removeprefix("lcl_places") for line in lines if line.startswith("lcl_places"))


def test_a_key_that_asks_too_much_is_told_when_to_come_back(narrow: Any, refused: Any) -> None:
    with narrow.http("viewer") as viewer, narrow.http("submitter") as other, narrow.http(None) as stranger:
        answers = []
        while not answers or (answers[-1].status_code == 200 and len(answers) < 200):  # some come back meanwhile
            answers.append(viewer.get("/v1/workers"))
        assert len(answers) > 40
        refused(answers[-1], 429, "too_many_requests")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
        assert other.get("/v1/workers").status_code == 200, "another key has its own minute"
        assert [stranger.get("/healthz").status_code for _ in range(60)] == [200] * 60
        assert viewer.get("/healthz").status_code == 200


def test_open_streams_leave_room_and_give_their_places_back(narrow: Any, refused: Any, eventually: Any) -> None:
    path = f"/v1/runs/{narrow.submit()}/events"
    with narrow.http("admin") as client:
        with ExitStack() as streams:
            for _ in range(2):
                streams.enter_context(client.stream("GET", path))
            eventually(lambda: places(narrow) == '{kind="request"} 0.0 {kind="stream"} 2.0', "both counted")
            assert "streams" in refused(client.get(path), 429, "too_many_requests")["message"]
            assert client.get("/v1/workers").status_code == 200
        eventually(lambda: 'kind="stream"} 0.0' in places(narrow), "places given back")
        with client.stream("GET", path) as opened:
            assert opened.status_code == 200


def test_a_stream_that_grew_old_ends_and_its_reader_goes_on(
    tmp_path: Path, serve: Any, house_of: Callable[..., Any]
) -> None:
    settings = ApiSettings(home=tmp_path, event_poll_seconds=0.01, event_stream_seconds=0.05)
    context = AppState(settings)
    with serve(settings) as url:
        house = house_of(url, tmp_path, context, (tmp_path / "key").read_text().strip())
        run_id = house.submit()
        with house.http() as client:
            assert "event: state" in client.get(f"/v1/runs/{run_id}/events").text, "it ends though the run does not"
        events = house.admin.events(run_id)
        seen = [next(events) for _ in range(3)]
        assert {event["data"]["state"] for event in seen} == {"queued"}, "each time it comes back it is told the state"
        house.admin.cancel(run_id)
        assert [event["data"]["state"] for event in events][-1] == "cancelled"
    context.close()
