"""One door to the database: SQLite (WAL) embedded, PostgreSQL for teams."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

# what a database that is away, restarting or overrun raises; later it may well answer
UNREACHABLE = (OperationalError, InterfaceError, PoolTimeout)
BUSY_TIMEOUT_SECONDS = 5.0
# a cut connection is noticed within seconds: a worker must know in time that it cannot renew its lease
_POSTGRES_ARGUMENTS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_MIGRATION_LOCK = 0x6C636C72756E73  # any constant: names the advisory lock on PostgreSQL


def create_engine_for(url: str) -> Engine:
    """An engine for many processes: SQLite in WAL mode with a busy timeout, or PostgreSQL.

    On SQLite a transaction begins as the execution option ``sqlite_begin`` says. ``IMMEDIATE`` takes the
    write lock at once: a reader that becomes a writer half-way is refused by SQLite without any waiting.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, connect_args=_POSTGRES_ARGUMENTS, pool_pre_ping=True, max_overflow=40)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, max_overflow=40)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


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
        self.engine = create_engine_for(url)
        self._writer = self.engine.execution_options(sqlite_begin="IMMEDIATE")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end, rolled back by an exception."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
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
            self._writer.connect() as connection,
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


def now(session: Session) -> datetime:
    """The time by the database's clock: leases compare times that several machines wrote."""
    if session.get_bind().dialect.name == "postgresql":
        return session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    return datetime.now(UTC)
