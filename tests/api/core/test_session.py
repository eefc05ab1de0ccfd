"""A request's transaction: kept with its last words or not at all, ended once, and brief ones in few threads."""

import threading
from contextlib import ExitStack

import anyio
import pytest
from anyio import CapacityLimiter
from sqlalchemy import text
from starlette.types import Message

from api.core.session import CleanupResponse, RequestSession, single_thread_endpoint
from lcl_core.db.session import Database

ENTRIES = text("SELECT count(*) FROM entry")


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.session() as session:
        session.execute(text("CREATE TABLE entry (word TEXT)"))
    yield database
    database.dispose()


def test_a_response_that_nobody_reads_is_given_up():
    """What it holds is closed, although the client has neither read on nor disconnected."""
    closed, sent = threading.Event(), list[Message]()
    resources = ExitStack()
    resources.callback(closed.set)

    async def chunks():
        while True:
            yield b"chunk"

    async def receive():
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            await anyio.sleep_forever()

    async def main():
        response = CleanupResponse(chunks(), resources, 0.01, media_type="application/x-tar", headers={})
        with anyio.fail_after(60):
            await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)

    anyio.run(main)
    assert closed.is_set()
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def write(session, word="change"):
    session.execute(text("INSERT INTO entry VALUES (:word)"), {"word": word})


def entries(database):
    with database.reading() as session:
        return session.execute(ENTRIES).scalar_one()


def writing(database, threads=None):
    return RequestSession(database.writer, threads or CapacityLimiter(1), lambda session: write(session, "last words"))


def run(session, fail=False):
    @single_thread_endpoint
    def endpoint(session, fail):
        write(session)
        if fail:
            raise ZeroDivisionError
        return threading.get_ident()

    async def main():
        return await endpoint(session=session, fail=fail)

    return anyio.run(main)


def test_a_brief_endpoint_is_over_to_the_commit_when_it_returns(database):
    session = writing(database)
    assert run(session) != threading.get_ident()
    assert not session.needs_finish
    assert entries(database) == 2


def test_one_that_fails_keeps_nothing(database):
    session = writing(database)
    with pytest.raises(ZeroDivisionError):
        run(session, fail=True)
    assert not session.needs_finish
    assert entries(database) == 0


def test_no_more_at_one_time_than_there_are_lanes(database):
    threads, at_once, most = CapacityLimiter(2), 0, 0
    lock = threading.Lock()
    released = threading.Event()

    @single_thread_endpoint
    def endpoint(session):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
            if at_once == 2:
                released.set()
        released.wait(180)
        with lock:
            at_once -= 1

    async def main():
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(lambda: endpoint(session=RequestSession(database.engine, threads, None)))

    anyio.run(main)
    assert most == 2
