"""Sessions: opened, ended, outlived; and whose key a call is made with."""

from __future__ import annotations

import httpx
import pytest

from ui.sessions import MAX_SESSIONS_PER_KEY, SessionKeyAuth, SessionStore, current_session


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_session_is_found_until_it_is_left(clock: Clock) -> None:
    sessions = SessionStore(60, clock=clock)
    ada, bob = sessions.open("key-a", "ada", "submitter"), sessions.open("key-b", "bob", "viewer")
    assert ada != bob
    found = sessions.find(ada)
    assert found is not None
    assert (found.key, found.owner, found.role) == ("key-a", "ada", "submitter")
    assert "key-a" not in repr(found)
    assert ada not in repr(found)
    sessions.close(ada)
    sessions.close(ada)
    assert sessions.find(ada) is None
    assert sessions.find(bob) is not None
    assert sessions.find(None) is None
    assert sessions.find("made-up") is None


def test_a_session_ends_by_the_clock_however_busy(clock: Clock) -> None:
    sessions = SessionStore(60, clock=clock)
    token = sessions.open("key", "ada", "viewer")
    clock.now += 59
    assert sessions.find(token) is not None
    clock.now += 1
    assert sessions.find(token) is None


def test_one_key_pushes_out_its_own_sessions_alone(clock: Clock) -> None:
    sessions = SessionStore(60, clock=clock)
    bob = sessions.open("key-b", "bob", "viewer")
    many = [sessions.open("key-a", "ada", "viewer") for _ in range(10_000)]
    assert sessions.find(bob) is not None
    assert sum(sessions.find(token) is not None for token in many) == MAX_SESSIONS_PER_KEY
    assert sessions.find(many[-1]) is not None
    assert sessions.find(many[0]) is None


def test_whatever_ends_a_session_is_reported(clock: Clock) -> None:
    sessions, ended = SessionStore(60, limit_per_key=2, clock=clock), list[str]()
    sessions.on_end.append(lambda session: ended.append(session.token))
    tokens = [sessions.open("key-a", "ada", "viewer") for _ in range(3)]
    assert ended == tokens[:1]
    sessions.close(tokens[1])
    sessions.close(tokens[1])
    sessions.close("made-up")
    assert ended == tokens[:2]
    sessions.close_key("key-b")
    sessions.close_key("key-a")
    assert ended == tokens
    late = sessions.open("key-b", "bob", "viewer")
    clock.now += 60
    sessions.close_expired()
    assert ended == [*tokens, late]


def sent_key(sessions: SessionStore, status: int = 200) -> str | None:
    """The key that a call carries, which is answered with ``status``."""
    request = httpx.Request("GET", "http://service/v1/runs")
    flow = SessionKeyAuth(sessions).auth_flow(request)
    next(flow)
    with pytest.raises(StopIteration):
        flow.send(httpx.Response(status))
    return request.headers.get("authorization")


def test_a_call_that_nobody_asked_for_carries_no_key(clock: Clock) -> None:
    sessions = SessionStore(60, clock=clock)
    token = sessions.open("key-a", "ada", "viewer")
    current_session.set(None)
    assert sent_key(sessions) is None
    current_session.set(sessions.find(token))
    assert sent_key(sessions) == "Bearer key-a"
    current_session.set(None)


def test_a_key_that_the_service_refuses_ends_its_sessions_alone(clock: Clock) -> None:
    sessions = SessionStore(60, clock=clock)
    ada, again, bob = (sessions.open(key, "x", "viewer") for key in ("key-a", "key-a", "key-b"))
    current_session.set(sessions.find(ada))
    sent_key(sessions, 403)
    assert sessions.find(ada) is not None
    sent_key(sessions, 401)
    current_session.set(None)
    assert [sessions.find(token) is not None for token in (ada, again, bob)] == [False, False, True]
