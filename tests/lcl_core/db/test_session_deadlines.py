"""No statement waits for ever: the server ends it, and the client does not depend on a reply."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from lcl_core.db import session as db_session
from lcl_core.db.session import UNREACHABLE, Database, allow_long_statements, answer_within
from tests.chaos.tcp_proxy import TcpProxy

SLEEP = text("SELECT pg_sleep(:seconds)")


@pytest.fixture
def proxy(empty_postgres: str) -> Iterator[TcpProxy]:
    with TcpProxy(empty_postgres) as proxy:
        yield proxy


@pytest.fixture
def remote(proxy: TcpProxy) -> Iterator[Database]:
    database = Database(proxy.url)
    yield database
    database.dispose()


def test_a_reply_that_does_not_come_ends_the_statement_and_the_connection(proxy: TcpProxy, remote: Database) -> None:
    with remote.session() as session:
        session.execute(text("SELECT 1"))
    proxy.swallow_replies()
    started = time.monotonic()
    with pytest.raises(UNREACHABLE), answer_within(0.3), remote.session() as session:
        session.execute(text("SELECT 1"))
    assert time.monotonic() - started < db_session.ANSWER_SECONDS / 2
    proxy.close_connections()


def test_a_connection_that_was_given_up_is_not_used_again(remote: Database) -> None:
    with (
        pytest.raises(UNREACHABLE, match=r"did not answer within 0\.3 s"),
        answer_within(0.3),
        remote.session() as session,
    ):
        session.execute(SLEEP, {"seconds": 60})
    with remote.session() as session:
        assert session.scalars(text("SELECT 7")).one() == 7


def test_the_server_ends_a_statement_that_takes_too_long(
    remote: Database, monkeypatch: pytest.MonkeyPatch, empty_postgres: str
) -> None:
    monkeypatch.setattr(db_session, "STATEMENT_SECONDS", 0.2)
    database = Database(empty_postgres)
    with pytest.raises(UNREACHABLE, match="statement timeout"), database.reading() as session:
        session.execute(SLEEP, {"seconds": 60})
    with database.session() as session, answer_within(0.2):
        allow_long_statements(session)
        session.execute(SLEEP, {"seconds": 0.6})  # an index that is built, a migration
    with pytest.raises(UNREACHABLE), database.session() as session, answer_within(0.2):
        session.execute(SLEEP, {"seconds": 60})  # the next transaction has its limits again
    database.dispose()
