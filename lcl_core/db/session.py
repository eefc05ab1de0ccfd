"""Engines and sessions: SQLite in WAL mode for one machine, PostgreSQL for a team.

``Database.session`` opens a write transaction, ``Database.reading`` a read transaction. On SQLite the write
transactions of a process queue on a lock, because SQLite itself only retries at growing intervals.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session

_FULL_BELOW_BYTES = 1 << 20  # bytes; with less room than that an input/output error is a full disk's


class _ExplainedError(DBAPIError):
    """Says its own words, in one line; the statement and its values, which may be anybody's, are left out."""

    words = ""

    def __str__(self) -> str:
        return self.words


class DatabaseFull(_ExplainedError, OperationalError):
    """The disk that holds the database is full; it answers again when there is room."""


class DatabaseUnusable(_ExplainedError, OperationalError):
    """The file cannot be opened or written."""


class DatabaseDamaged(_ExplainedError, DatabaseError):
    """The file is no database, or some of its pages are torn: no wait helps."""


def explain_sqlite_error(path: str, context: ExceptionContext) -> DBAPIError | None:
    """For the event ``handle_error`` of an engine on the file ``path``; None: the error stays as it is."""
    cause = context.original_exception
    said = str(cause).lower()
    if "database or disk is full" in said or ("disk i/o error" in said and _free_bytes(path) < _FULL_BELOW_BYTES):
        words = f"no space left on the disk that holds {path} ({cause}); make room there, then try again"
        return _explained(DatabaseFull, words, cause)
    if "file is not a database" in said or "malformed" in said or "disk i/o error" in said:
        words = f"{path} is damaged ({cause}); stop the service and restore a backup (docs/operations.md, Backup)"
        return _explained(DatabaseDamaged, words, cause)
    if "readonly database" in said or "unable to open database file" in said:
        words = f"{path} cannot be opened and written ({cause}); see to the rights of the file and its folder"
        return _explained(DatabaseUnusable, words, cause)
    return None


def _explained(kind: type[_ExplainedError], words: str, cause: BaseException) -> _ExplainedError:
    error = kind(None, None, cause)
    error.words = words
    return error


def _free_bytes(path: str) -> int:
    """Bytes that this user may still write to the disk of the file's folder."""
    try:
        found = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return _FULL_BELOW_BYTES
    return found.f_bavail * found.f_frsize


# what a database that is away, restarting or overrun raises; later it may well answer
UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
BUSY_TIMEOUT_SECONDS = 5.0
# a cut connection is noticed within seconds: a worker must know in time that it cannot renew its lease
_POSTGRES_CONNECT_ARGS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# connections that are kept, and further ones that a moment's need may open: of readers and writers together as many as
# the api has threads. Those that are not kept are opened and closed with each transaction, which costs more than it.
_POOL = {"pool_size": 12, "max_overflow": 11}
# a connection that was in use a moment ago is taken as it is, any other is tried first
_PING_AFTER_SECONDS = 1.0
# of a transaction that writes: a process that hangs in one, or whose machine is gone, holds rows that others wait for
IDLE_SECONDS = 15.0
_HOLDS_WRITE_LOCK = "lcl.turn"  # in the facts of a connection: it holds its engine's turn to write
_LAST_USED = "lcl.used"  # there as well: when it was given back
_MIGRATION_LOCK = 0x6C636C72756E73  # any constant: names the advisory lock on PostgreSQL


def create_engines(url: str) -> tuple[Engine, Engine]:
    """Engines for many processes, one to read and one to write: SQLite in WAL mode with a busy timeout, or PostgreSQL.

    A writer's transaction on SQLite takes the write lock at once (a reader that becomes a writer half-way is refused by
    SQLite without any waiting), and one on PostgreSQL that does nothing for IDLE_SECONDS is ended by the server.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        reader, writer = _create_postgres_engine(parsed), _create_postgres_engine(parsed)
        event.listen(writer, "connect", _set_idle_timeout)
        return reader, writer
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **_POOL)
    event.listen(engine, "connect", _configure_sqlite)
    if parsed.database:
        event.listen(engine, "handle_error", partial(explain_sqlite_error, parsed.database), retval=True)
    _WriteLock(engine)
    return engine, engine.execution_options(writes=True)


def _create_postgres_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args=_POSTGRES_CONNECT_ARGS, **_POOL)
    event.listen(engine, "checkin", _record_use)
    event.listen(engine, "checkout", partial(_ping_if_idle, engine))
    event.listen(engine, "handle_error", _as_operational_error, retval=True)
    return engine


def _set_idle_timeout(connection: Any, _record: object) -> None:
    """Not among the connection's options: poolers between here and the server refuse what they do not know there."""
    connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_SECONDS * 1000)}")
    connection.commit()


def _record_use(_connection: object, record: Any) -> None:
    record.info[_LAST_USED] = time.monotonic()


def _ping_if_idle(engine: Engine, connection: Any, record: Any, _fairy: object) -> None:
    """Raises: InvalidatePoolError, by which the pool opens new connections: the server hung up meanwhile."""
    if time.monotonic() - record.info.get(_LAST_USED, time.monotonic()) < _PING_AFTER_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


class _WriteLock:
    """The begin of SQLite's transactions; those of this process that write come one after another.

    SQLite lets one write and leaves the others to ask again and again, at growing intervals: among thirty, some would
    wait for seconds, or in vain. Here they queue, and only other processes are met in the old way.
    """

    def __init__(self, engine: Engine) -> None:
        self._turn = threading.Lock()
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "checkin", self._done)

    def _begin(self, connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        if writes and _HOLDS_WRITE_LOCK not in connection.info and self._turn.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            connection.info[_HOLDS_WRITE_LOCK] = True
        connection.exec_driver_sql(f"BEGIN {'IMMEDIATE' if writes else 'DEFERRED'}")

    def _done(self, _connection: object, record: Any) -> None:
        """The connection is back in the pool: whatever it did is committed or rolled back."""
        if record.info.pop(_HOLDS_WRITE_LOCK, False):
            self._turn.release()


def _as_operational_error(context: ExceptionContext) -> OperationalError | None:
    """The driver has a class of errors for each reason why the server hung up; here they are all UNREACHABLE."""
    told = context.sqlalchemy_exception
    if not context.is_disconnect or told is None or isinstance(told, UNREACHABLE):
        return None
    cause = context.original_exception
    return OperationalError(context.statement, context.parameters, cause, connection_invalidated=True)


@contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """SQLite alters a table by making it anew and dropping the old one, which would cascade to every child row."""
    raw = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or raw is None:
        yield
        return
    raw.execute("PRAGMA foreign_keys=OFF")  # has no effect inside a transaction, so it stands around one
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


class Database:
    """Sessions on one URL. ``session`` writes, ``reading`` only looks."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine, self.writer = create_engines(url)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back by an exception."""
        with Session(self.writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads, and so waits for no writer on SQLite."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def migrate(self) -> None:
        """Bring the schema up to date. Processes that start together take turns."""
        from alembic import command

        with self._migrating() as config:
            command.upgrade(config, "head")

    def downgrade(self, revision: str) -> None:
        """Take the schema back to ``revision`` (``base`` is an empty database)."""
        from alembic import command

        with self._migrating() as config:
            command.downgrade(config, revision)

    @contextmanager
    def _migrating(self) -> Iterator[Any]:
        """An alembic configuration on one connection, in one transaction, under the migration lock."""
        from alembic.config import Config

        config = Config()
        scripts = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        with (
            self._file_lock(),
            self.writer.connect() as connection,
            _foreign_keys_off(connection),
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            yield config

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """On SQLite a lock file guards even the first connection, which switches the journal mode."""
        path = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        if not path or path == ":memory:":
            yield
            return
        with Path(f"{path}.migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
        self.writer.dispose()


def sql_now(session: Session) -> ColumnElement[datetime] | datetime:
    """``now`` for use inside a statement, where the database itself can put it in."""
    if session.get_bind().dialect.name == "postgresql":
        return func.clock_timestamp()
    return datetime.now(UTC)


def now(session: Session) -> datetime:
    """The time by the database's clock: leases compare times that several machines wrote."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    return datetime.now(UTC)


def dialect_insert(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what is to become of rows that are there already; the two databases say it alike."""
    is_postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if is_postgres else sqlite.insert(table)
