"""Engines and sessions: SQLite in WAL mode for one machine, PostgreSQL for a team.

``Database.session`` opens a write transaction, ``Database.reading`` a read transaction. On SQLite the write
transactions of a process queue on a lock, because SQLite itself only retries at growing intervals.
"""

from __future__ import annotations

import fcntl
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import (
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ExceptionContext,
    Select,
    TypeDecorator,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session

from lcl_core.common.errors import NotFound, UserError, suggestion
from lcl_core.common.paths import storable_text

MAX_NAMES = 1000  # among which a similar one is searched
# raised while a database is unreachable, restarts or is overloaded; a later attempt may succeed
UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
BUSY_TIMEOUT_SECONDS = 5.0
# a write transaction that idles longer is ended by PostgreSQL: its process may hang, or its machine be gone
IDLE_SECONDS = 15.0
STATEMENT_SECONDS = 60.0  # PostgreSQL ends a longer statement, also one that waits for a lock
PAGE_LIMIT = 200

# a cut connection is noticed within seconds: a worker must know in time that it cannot renew its lease
_POSTGRES_CONNECT_ARGS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# an overflow connection is opened and closed with each transaction, which costs more than the transaction: most do
# without one
_POOL: dict[str, Any] = {"pool_size": 12, "max_overflow": 11, "hide_parameters": True}  # errors quote no private value
_HOLDS_WRITE_LOCK = "lcl.turn"  # key in the info of a connection
_CLOCK = "lcl.clock"  # key in the info of a session
_MIGRATION_LOCK = 0x6C636C72756E73  # any constant: key of the advisory lock on PostgreSQL

Item = TypeVar("Item")


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


class Database:
    """Sessions on one URL, for many threads. The constructor opens nothing; ``migrate`` makes the folder of a file.

    ``clock``: of one process that alone uses the database; None: the database's own.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None) -> None:
        self.url = url
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            limits = {"statement_timeout": STATEMENT_SECONDS}
            writing = {**limits, "idle_in_transaction_session_timeout": IDLE_SECONDS}
            self.engine = _create_postgres_engine(parsed, limits)
            self.writer = _create_postgres_engine(parsed, writing)
        else:
            self.engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, **_POOL)
            event.listen(self.engine, "connect", _configure_sqlite)
            _WriteLock(self.engine)
            # BEGIN IMMEDIATE: SQLite refuses at once a reader that starts to write
            self.writer = self.engine.execution_options(writes=True)
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
        """Migrate the schema to the newest revision. Processes that start together take turns."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        scripts = Path(__file__).parent / "migrations"
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        with self._file_lock(), self.writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                message = f"another version of the service has migrated the database ({error}): start that version"
                raise UserError(message, code="database_newer") from error

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """On SQLite a lock file guards even the first connection, which switches the journal mode."""
        path = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        if path is None:
            yield
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{path}.migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
        self.writer.dispose()


def storable_json(value: Any) -> Any:
    """``value`` as JSON that every database stores: null for numbers that are not finite, ``storable_text``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return {storable_json(str(key)): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in value]
    return value


def now(session: Session) -> datetime:
    """Time of the database's clock: leases compare times that several machines wrote."""
    if (clock := session.info.get(_CLOCK)) is not None:
        return cast(datetime, clock())
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    return datetime.now(UTC)


def dialect_insert(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """Insert with an ON CONFLICT clause, in the dialect of the session."""
    is_postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if is_postgres else sqlite.insert(table)


def lock_until_commit(session: Session, *key: Any) -> None:
    """Take PostgreSQL's advisory lock ``key``. SQLite needs none: its write transactions are serialised."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(*key)))


@dataclass(frozen=True)
class CursorPage(Generic[Item]):
    """``items`` newest first; ``next_cursor`` is the cursor of the next page, None on the last one."""

    items: list[Item]
    next_cursor: str | None


def read_page(
    session: Session, query: Select[Item], key: InstrumentedAttribute[Any], limit: int, cursor: str | None
) -> CursorPage[Item]:
    """Rows in descending order of ``key``, which is their ``id``; ``cursor``: that of the last row before the page."""
    if not 1 <= limit <= PAGE_LIMIT:
        raise UserError(f"limit must be 1 to {PAGE_LIMIT} (got {limit})", field="limit")
    if cursor is not None:
        numbered = key.type.python_type is int
        if not re.fullmatch("[0-9]{1,18}" if numbered else "[a-z]+_.+", cursor):
            raise UserError("cursor is not one that a page gave", field="cursor")
        query = query.where(key < (int(cursor) if numbered else cursor))
    rows: list[Any] = list(session.scalars(query.order_by(key.desc()).limit(limit + 1)))
    return CursorPage(rows[:limit], str(rows[limit - 1].id) if len(rows) > limit else None)


def _create_postgres_engine(url: URL, limits: dict[str, float]) -> Engine:
    """``limits``: seconds of PostgreSQL's timeouts by their names."""
    options = " ".join(f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items())
    arguments = {**_POSTGRES_CONNECT_ARGS, "options": options}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, **_POOL)
    event.listen(engine, "handle_error", _as_operational_error, retval=True)
    return engine


def _as_operational_error(context: ExceptionContext) -> OperationalError | None:
    """One error class, one of UNREACHABLE, for all of the driver's classes of a lost connection."""
    error = context.sqlalchemy_exception
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


def unknown_name(session: Session, table: Any, name: str, *conditions: Any) -> NotFound:
    """No row of the table, among those that meet the conditions, has this id or name; the most similar is suggested."""
    query = select(table.name).where(table.name.is_not(None), *conditions).distinct().limit(MAX_NAMES)
    return NotFound(f"there is no {table.__tablename__} {name!r}{suggestion(name, session.scalars(query))}")
