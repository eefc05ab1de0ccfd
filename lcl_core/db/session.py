"""Engines and sessions: SQLite in WAL mode for one machine, PostgreSQL for a team.

``Database.session`` opens a write transaction, ``Database.reading`` a read transaction. On SQLite the write
transactions of a process queue on a lock, because SQLite itself only retries at growing intervals.

On PostgreSQL no statement waits for ever: the server ends it after STATEMENT_SECONDS, and a client that gets no reply
(from a proxy that lost the server, from a stopped backend) closes the connection after ANSWER_SECONDS.

A pooler such as PgBouncer may give a server's session to another client after each transaction. Through one, a
transaction begins with the server's limits, and nothing is kept in a session: no setting, no prepared statement.
"""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ExceptionContext,
    Select,
    TypeDecorator,
    and_,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

from lcl_core.common.errors import UserError, suggestion
from lcl_core.common.names import replace_surrogates
from lcl_core.db.migrations.lock_waits import limit_lock_waits, repeat_until_unlocked

MAX_NAMES = 1000  # among which a similar one is searched
# raised while a database is unreachable, restarts or is overloaded; a later attempt may succeed
UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
BUSY_TIMEOUT_SECONDS = 5.0
# a write transaction that idles longer is ended by PostgreSQL: its process may hang, or its machine be gone
IDLE_SECONDS = 15.0
# PostgreSQL ends a longer statement, also one that waits for a lock; the client then waits some seconds more for the
# reply, and closes the connection when none comes
STATEMENT_SECONDS = 60.0
ANSWER_SECONDS = 75.0
PAGE_LIMIT = 200

# a cut connection is noticed within seconds: a worker must know in time that it cannot renew its lease
_POSTGRES_CONNECT_ARGS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# readers and writers together have as many connections as the api has threads: an overflow connection is opened and
# closed with each transaction, which costs more than the transaction
_POOL = {"pool_size": 12, "max_overflow": 11}
_PING_AFTER_SECONDS = 1.0  # a connection that was idle for longer is tested before use
_HOLDS_WRITE_LOCK = "lcl.turn"  # key in the info of a connection
_LAST_USED = "lcl.used"
_CLOCK = "lcl.clock"  # key in the info of a session
_LOCK_POLL_SECONDS = 0.1
_LONG_STATEMENTS = "lcl.long"
_MIGRATION_LOCK = 0x6C636C72756E73  # any constant: key of the advisory lock on PostgreSQL
_READ_ONLY = "25006"  # SQLSTATE of a write to a replica, or to a managed server that permits none for now
_DISK_FULL_BELOW_BYTES = 1 << 20  # an input/output error with less free space is treated as a full disk

Item = TypeVar("Item")
_answer_seconds: ContextVar[float] = ContextVar("answer_seconds", default=ANSWER_SECONDS)


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC time on both databases; SQLite stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """PostgreSQL connections that this block uses are closed when a reply takes longer (OperationalError)."""
    token = _answer_seconds.set(seconds)
    try:
        yield
    finally:
        _answer_seconds.reset(token)


def allow_long_statements(session: Session | Connection) -> None:
    """Lift both time limits until the end of the transaction: an index of vectors may take minutes to build."""
    connection = session.connection() if isinstance(session, Session) else session
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.info[_LONG_STATEMENTS] = True


class Database:
    """Sessions on one URL, for many threads. The constructor opens nothing; ``migrate`` makes the folder of a file.

    Args:
        clock: time of all leases, of one process that alone uses the database; None: the database's own clock.
        pooled: whether a pooler between this process and PostgreSQL assigns sessions per transaction.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None, *, pooled: bool = False) -> None:
        self.url = url
        self.engine, self.writer = create_engines(url, pooled=pooled)
        self._pooled = pooled
        self._info = {} if clock is None else {_CLOCK: clock}

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Write transaction: committed at the end, rolled back on an exception."""
        with Session(self.writer, expire_on_commit=False, info=self._info) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read transaction; on SQLite it waits for no writer."""
        with Session(self.engine, expire_on_commit=False, info=self._info) as session:
            yield session

    def migrate(self) -> None:
        """Migrate the schema to the newest revision. Processes that start together take turns.

        On PostgreSQL others go on using the tables: it waits for locks in short attempts, until it has them.

        Raises: UserError ``database_newer`` where a later version has migrated it.
        """
        from alembic import command

        with self._migrating() as config, _explained_revisions(config):
            repeat_until_unlocked(config.attributes["connection"], partial(command.upgrade, config, "head"))

    def downgrade(self, revision: str) -> None:
        """Migrate the schema back to ``revision`` (``base`` is an empty database).

        Raises: UserError ``database_newer`` as :meth:`migrate`, ``bad_revision`` for one that is not an earlier one.
        """
        from alembic import command

        with self._migrating() as config, _explained_revisions(config, revision):
            repeat_until_unlocked(config.attributes["connection"], partial(command.downgrade, config, revision))

    @contextmanager
    def _migrating(self) -> Iterator[Any]:
        """An alembic configuration on one connection, under the migration lock."""
        from alembic.config import Config

        config = Config()
        scripts = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        with (
            self._file_lock(),
            self._advisory_lock(),
            self.writer.connect() as connection,
            _foreign_keys_off(connection),
            _without_time_limits(connection, self._pooled),
        ):
            limit_lock_waits(connection)
            config.attributes["connection"] = connection
            yield config

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """On SQLite a lock file guards even the first connection, which switches the journal mode."""
        path = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        if not path or path == ":memory:":
            yield
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{path}.migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _advisory_lock(self) -> Iterator[None]:
        """PostgreSQL's migration lock, polled: CREATE INDEX CONCURRENTLY would wait for queries that wait for it."""
        if self.engine.dialect.name != "postgresql":
            yield
            return
        with self.writer.connect() as connection:
            transaction = connection.begin()
            while not connection.scalar(select(func.pg_try_advisory_xact_lock(_MIGRATION_LOCK))):
                transaction.rollback()
                time.sleep(_LOCK_POLL_SECONDS)
                transaction = connection.begin()
            # this statement also replaces the query above, whose snapshot the creation of an index would wait for
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            with transaction:
                yield

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
        self.writer.dispose()


@contextmanager
def _explained_revisions(config: Any, target: str = "") -> Iterator[None]:
    """Turn alembic's errors into UserError ``database_newer`` or ``bad_revision``.

    Args:
        config: of alembic.
        target: revision to which the schema is to go back, if it is.
    """
    from alembic.script import ScriptDirectory
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    try:
        yield
    except CommandError as error:
        cause = error.__cause__
        if isinstance(cause, ResolutionError) and cause.argument != target:
            newest = ScriptDirectory.from_config(config).get_current_head()
            raise UserError(
                f"a newer version has migrated the database (to revision {cause.argument}; the newest of this version "
                f"is {newest}): start that version, or have it go back (python -m lcl_core.db.migrations --to "
                f"{newest}), or restore a backup (docs/operations.md, Upgrade)",
                code="database_newer",
            ) from error
        if target:
            raise UserError(f"the database cannot go back to {target}: {error}", code="bad_revision") from error
        raise


def create_engines(url: str, *, pooled: bool = False) -> tuple[Engine, Engine]:
    """A read engine and a write engine on one SQLite file or PostgreSQL database.

    A write transaction on SQLite starts with BEGIN IMMEDIATE: SQLite refuses at once a reader that starts to write.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        limits = {"statement_timeout": STATEMENT_SECONDS}
        writing = {**limits, "idle_in_transaction_session_timeout": IDLE_SECONDS}
        return _create_postgres_engine(parsed, limits, pooled), _create_postgres_engine(parsed, writing, pooled)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **_POOL)
    event.listen(engine, "connect", _configure_sqlite)
    if parsed.database:
        event.listen(engine, "handle_error", partial(explain_sqlite_error, parsed.database), retval=True)
    _WriteLock(engine)
    return engine, engine.execution_options(writes=True)


def storable_json(value: Any) -> Any:
    """``value`` as JSON that every database stores.

    Non-finite numbers become null, NUL characters are left out, and half a surrogate pair, which JSON can write as an
    escape, becomes U+FFFD.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return replace_surrogates(value.replace("\x00", ""))
    if isinstance(value, dict):
        return {storable_json(str(key)): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in value]
    return value


def now(session: Session) -> datetime:
    """Time of the database's clock: leases compare times that several machines wrote."""
    if _CLOCK in session.info:
        return _read_clock(session)
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    return datetime.now(UTC)


def sql_now(session: Session) -> ColumnElement[datetime] | datetime:
    """``now`` for use inside a statement: PostgreSQL evaluates it there, without a query of its own."""
    if session.get_bind().dialect.name == "postgresql" and _CLOCK not in session.info:
        return func.clock_timestamp()
    return now(session)


def _read_clock(session: Session) -> datetime:
    clock: Callable[[], datetime] = session.info[_CLOCK]
    return clock()


def dialect_insert(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """Insert with an ON CONFLICT clause, in the dialect of the session."""
    is_postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if is_postgres else sqlite.insert(table)


def has_prefix(session: Session, column: InstrumentedAttribute[str], prefix: str) -> ColumnElement[bool]:
    """Condition: the column begins with ``prefix``, as a range that an index answers; one of LIKE reads all rows.

    Bytes are compared, whatever the collation: PostgreSQL needs an index with ``varchar_pattern_ops``.
    """
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    if session.get_bind().dialect.name == "postgresql":
        return and_(column.bool_op("~>=~")(prefix), column.bool_op("~<~")(end))
    return and_(column >= prefix, column < end)


def lock_until_commit(session: Session, *key: Any) -> None:
    """Take PostgreSQL's advisory lock ``key``. SQLite needs none: its write transactions are serialised."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(*key)))


@dataclass(frozen=True)
class CursorPage(Generic[Item]):
    """``items`` newest first; ``next_cursor`` is the cursor of the next page, None on the last one."""

    items: list[Item]
    next_cursor: str | None


def read_page(session: Session, query: Select[Item], limit: int, cursor_of: Callable[[Item], Any]) -> CursorPage[Item]:
    """The first ``limit`` rows of an ordered query.

    Args:
        cursor_of: the cursor that a row is, for the page after it.

    Raises: UserError ``bad_limit``.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise UserError(f"limit must be 1 to {PAGE_LIMIT} (got {limit})", code="bad_limit", field="limit")
    rows = list(session.scalars(query.limit(limit + 1)))
    items = rows[:limit]
    return CursorPage(items, str(cursor_of(items[-1])) if len(rows) > limit else None)


def bad_cursor() -> UserError:
    return UserError("cursor is not one that a page gave", code="bad_cursor", field="cursor")


def _create_postgres_engine(url: URL, limits: dict[str, float], pooled: bool) -> Engine:
    """``limits``: seconds of PostgreSQL's timeouts by their names."""
    arguments = {**_POSTGRES_CONNECT_ARGS, "prepare_threshold": None} if pooled else _POSTGRES_CONNECT_ARGS
    engine = create_engine(url, connect_args=arguments, **_POOL)
    event.listen(engine, "do_connect", _connect_with_deadline)
    if pooled:
        event.listen(engine, "begin", partial(_limit_transaction, limits))
    else:
        event.listen(engine, "connect", partial(_limit_session, limits))
    event.listen(engine, "checkin", _record_use)
    event.listen(engine, "checkout", partial(_ping_if_idle, engine))
    event.listen(engine, "handle_error", _as_operational_error, retval=True)
    return engine


def _connect_with_deadline(_dialect: object, record: Any, arguments: Any, options: Any) -> Any:
    """A driver connection that closes itself when a reply takes longer than ``answer_within`` allows."""
    import psycopg  # of the two drivers only this one is imported, and only where it is used

    class DeadlineConnection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **more: Any) -> Any:
            seconds = float("inf") if record.info.get(_LONG_STATEMENTS) else _answer_seconds.get()
            return super().wait(_with_deadline(self, gen, seconds), *args, **more)

    return DeadlineConnection.connect(*arguments, **options)


def _with_deadline(connection: Any, gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """``gen``, which the driver resumes ten times a second while it waits. Raises: the driver's OperationalError."""
    from psycopg import OperationalError as DriverError

    deadline = time.monotonic() + seconds
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            if not ready and time.monotonic() > deadline:
                connection.pgconn.finish()  # the reply may still come, and would answer the next statement
                raise DriverError(f"the database did not answer within {seconds:g} s")
            awaited = gen.send(ready)
    except StopIteration as end:
        return end.value


def _limit_session(limits: dict[str, float], connection: Any, _record: object) -> None:
    """Once a connection; costs no transaction anything. Not a connection option, which poolers refuse."""
    connection.execute(_limits_query(limits, local=False))
    connection.commit()


def _limit_transaction(limits: dict[str, float], connection: Connection) -> None:
    if not connection.info.get(_LONG_STATEMENTS):
        connection.exec_driver_sql(_limits_query(limits, local=True))


def _limits_query(limits: dict[str, float], *, local: bool) -> str:
    values = (f"set_config('{name}', '{int(seconds * 1000)}', {local})" for name, seconds in limits.items())
    return f"SELECT {', '.join(values)}"


@contextmanager
def _without_time_limits(connection: Connection, pooled: bool) -> Iterator[None]:
    """For the migrations, each of which is a transaction of its own and may take minutes."""
    connection.info[_LONG_STATEMENTS] = True
    if pooled or connection.dialect.name != "postgresql":
        yield
        return
    _set_statement_timeout(connection, 0)
    try:
        yield
    finally:
        connection.rollback()  # of a migration that failed
        _set_statement_timeout(connection, STATEMENT_SECONDS)


def _set_statement_timeout(connection: Connection, seconds: float) -> None:
    connection.exec_driver_sql(f"SET statement_timeout = {int(seconds * 1000)}")
    connection.commit()


def _record_use(_connection: object, record: Any) -> None:
    record.info[_LAST_USED] = time.monotonic()
    record.info.pop(_LONG_STATEMENTS, None)


def _ping_if_idle(engine: Engine, connection: Any, record: Any, _fairy: object) -> None:
    """Raises: InvalidatePoolError, which makes the pool reconnect: the server has closed the connection."""
    if time.monotonic() - record.info.get(_LAST_USED, time.monotonic()) < _PING_AFTER_SECONDS:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _as_operational_error(context: ExceptionContext) -> OperationalError | None:
    """One error class, one of UNREACHABLE, for all of the driver's classes of a lost connection.

    A connection that permits no writes counts as lost, with all of its pool: a new one may lead to the primary server.
    """
    error = context.sqlalchemy_exception
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True
    if not context.is_disconnect or error is None or isinstance(error, UNREACHABLE):
        return None
    cause = context.original_exception
    return OperationalError(context.statement, context.parameters, cause, connection_invalidated=True)


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins no transaction; _WriteLock._begin does
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


class _WriteLock:
    """Begins SQLite's transactions; the write transactions of this process queue on a lock.

    SQLite itself makes a blocked writer retry at growing intervals: of thirty writers some would wait for seconds or
    fail. Writers of other processes are still met in that way.
    """

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "checkin", self._release)

    def _begin(self, connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        if writes and _HOLDS_WRITE_LOCK not in connection.info and self._lock.acquire(timeout=BUSY_TIMEOUT_SECONDS):
            connection.info[_HOLDS_WRITE_LOCK] = True
        connection.exec_driver_sql(f"BEGIN {'IMMEDIATE' if writes else 'DEFERRED'}")

    def _release(self, _connection: object, record: Any) -> None:
        """The connection is back in the pool: its transaction is committed or rolled back."""
        if record.info.pop(_HOLDS_WRITE_LOCK, False):
            self._lock.release()


@contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """SQLite alters a table by copying and dropping it; with foreign keys on, the drop would cascade to child rows."""
    raw = connection.connection.driver_connection
    if connection.dialect.name != "sqlite" or raw is None:
        yield
        return
    raw.execute("PRAGMA foreign_keys=OFF")  # without effect inside a transaction, so it encloses one
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


class _ExplainedError(DBAPIError):
    """Its text is one line for the user. The statement and its values, which may be private, are left out."""

    explanation = ""

    def __str__(self) -> str:
        return self.explanation


class DatabaseFull(_ExplainedError, OperationalError):
    """The disk that holds the database is full."""


class DatabaseUnusable(_ExplainedError, OperationalError):
    """The file cannot be opened or written."""


class DatabaseDamaged(_ExplainedError, DatabaseError):
    """The file is no database, or some of its pages are damaged: retrying does not help."""


def explain_sqlite_error(path: str, context: ExceptionContext) -> DBAPIError | None:
    """Handler of the event ``handle_error`` of an engine on the file ``path``; None: the error stays as it is."""
    cause = context.original_exception
    text = str(cause).lower()
    if "database or disk is full" in text or ("disk i/o error" in text and _free_bytes(path) < _DISK_FULL_BELOW_BYTES):
        message = f"no space left on the disk that holds {path} ({cause}); make room there, then try again"
        return _explained(DatabaseFull, message, cause)
    if "file is not a database" in text or "malformed" in text or "disk i/o error" in text:
        message = f"{path} is damaged ({cause}); stop the service and restore a backup (docs/operations.md, Backup)"
        return _explained(DatabaseDamaged, message, cause)
    if "readonly database" in text or "unable to open database file" in text:
        message = f"{path} cannot be opened and written ({cause}); see to the rights of the file and its folder"
        return _explained(DatabaseUnusable, message, cause)
    return None


def _explained(kind: type[_ExplainedError], explanation: str, cause: BaseException) -> _ExplainedError:
    error = kind(None, None, cause)
    error.explanation = explanation
    return error


def _free_bytes(path: str) -> int:
    """Bytes that this user may still write to the disk of the file ``path``."""
    try:
        disk = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return _DISK_FULL_BELOW_BYTES
    return disk.f_bavail * disk.f_frsize


def similar_name(session: Session, column: InstrumentedAttribute[Any], name: str, *conditions: Any) -> str:
    """``; did you mean 'x'?`` for the most similar name in a column; empty where none is similar."""
    names = session.scalars(select(column).where(column.is_not(None), *conditions).distinct().limit(MAX_NAMES))
    return suggestion(name, names)
