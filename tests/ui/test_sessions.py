"""Sessions: opened, ended, outlived; and whose key a call is made with."""

from __future__ import annotations

import httpx
import pytest

from ui.sessions import MAX_SESSIONS_PER_KEY, SessionKeyAuth, SessionStore, use_key


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_session_is_found_until_it_is_left(clock: Clock) -> None:
    visitors = SessionStore(60, clock=clock)
    ada, bob = visitors.enter("key-a", "ada", "submitter"), visitors.enter("key-b", "bob", "viewer")
    assert ada != bob
    found = visitors.find(ada)
    assert found is not None
    assert (found.key, found.owner, found.role) == ("key-a", "ada", "submitter")
    assert "key-a" not in repr(found)
    visitors.leave(ada)
    visitors.leave(ada)
    assert visitors.find(ada) is None
    assert visitors.find(bob) is not None
    assert visitors.find(None) is None
    assert visitors.find("made-up") is None


def test_a_session_ends_by_the_clock_however_busy(clock: Clock) -> None:
    visitors = SessionStore(60, clock=clock)
    token = visitors.enter("key", "ada", "viewer")
    clock.now += 59
    assert visitors.find(token) is not None
    clock.now += 1
    assert visitors.find(token) is None


def test_the_oldest_sessions_give_way_after_those_that_have_ended(clock: Clock) -> None:
    visitors = SessionStore(60, most=2, clock=clock)
    first = visitors.enter("key", "ada", "viewer")
    clock.now += 30
    second = visitors.enter("key", "ada", "viewer")
    third = visitors.enter("key", "ada", "viewer")
    assert [visitors.find(token) is not None for token in (first, second, third)] == [False, True, True]
    clock.now += 45
    late = visitors.enter("key", "ada", "viewer")
    clock.now += 14
    fourth = visitors.enter("key", "ada", "viewer")
    clock.now += 2
    assert [visitors.find(token) is not None for token in (third, late, fourth)] == [False, True, True]


def test_one_key_pushes_out_its_own_sessions_alone(clock: Clock) -> None:
    visitors = SessionStore(60, clock=clock)
    bob = visitors.enter("key-b", "bob", "viewer")
    many = [visitors.enter("key-a", "ada", "viewer") for _ in range(10_000)]
    assert visitors.find(bob) is not None
    assert sum(visitors.find(token) is not None for token in many) == MAX_SESSIONS_PER_KEY
    assert visitors.find(many[-1]) is not None
    assert visitors.find(many[0]) is None


def test_where_there_is_no_room_the_key_with_most_sessions_makes_it(clock: Clock) -> None:
    visitors = SessionStore(60, most=3, clock=clock)
    bob, ada = visitors.enter("key-b", "bob", "viewer"), visitors.enter("key-a", "ada", "viewer")
    again = visitors.enter("key-a", "ada", "viewer")
    cleo = visitors.enter("key-c", "cleo", "viewer")
    assert [visitors.find(token) is not None for token in (bob, ada, again, cleo)] == [True, False, True, True]


def test_whatever_ends_a_session_is_told(clock: Clock) -> None:
    visitors, ended = SessionStore(60, most_of_key=2, clock=clock), list[str]()
    visitors.on_end.append(ended.append)
    tokens = [visitors.enter("key-a", "ada", "viewer") for _ in range(3)]
    assert ended == tokens[:1]
    visitors.leave(tokens[1])
    visitors.leave(tokens[1])
    visitors.leave("made-up")
    assert ended == tokens[:2]
    visitors.turn_out("key-b")
    visitors.turn_out("key-a")
    assert ended == tokens
    late = visitors.enter("key-b", "bob", "viewer")
    clock.now += 60
    visitors.sweep()
    assert ended == [*tokens, late]


def asked(visitors: SessionStore, status: int = 200) -> str | None:
    """The key that a call carries, which is answered with ``status``."""
    request = httpx.Request("GET", "http://service/v1/runs")
    flow = SessionKeyAuth(visitors).auth_flow(request)
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(httpx.Response(status))
    return request.headers.get("authorization")


def test_a_call_that_nobody_asked_for_carries_no_key(clock: Clock) -> None:
    visitors = SessionStore(60, clock=clock)
    visitors.enter("key-a", "ada", "viewer")
    use_key(None)
    assert asked(visitors) is None
    use_key("key-b")
    assert asked(visitors) == "Bearer key-b"
    use_key(None)


def test_a_key_that_the_service_refuses_ends_its_sessions_alone(clock: Clock) -> None:
    visitors = SessionStore(60, clock=clock)
    ada, again, bob = (visitors.enter(key, "x", "viewer") for key in ("key-a", "key-a", "key-b"))
    use_key("key-a")
    asked(visitors, 403)
    assert visitors.find(ada) is not None
    asked(visitors, 401)
    use_key(None)
    assert [visitors.find(token) is not None for token in (ada, again, bob)] == [False, False, True]
