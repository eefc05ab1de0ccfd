"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

import pytest

from workers.executors.local import LocalExecutor

ROOT = Path(__file__).resolve().parents[1]
# values of parameters for which a fixture asks for the PostgreSQL server
POSTGRES = ("postgresql",)

# what comes with the product would stand in every list; tests that want it ask for it
os.environ["LCL_WELCOME"] = "false"
# what auto chooses depends on the machine
os.environ["LCL_INFERENCE_PRECISION"] = "fp32"
# owners' encoders are tested with the keys of submitters; tests/api/routes/test_encoders.py has the default
os.environ["LCL_IMPORT"] = "submitter"
# else a thread would load encoders beside whatever test counts loads or memory
os.environ["LCL_WARM_ENCODERS"] = "false"
# else two runs of one training may differ in the last digit; set before torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what the page sets: a job is forked only where its environment is the fork server's
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def pytest_configure() -> None:
    """Jobs are forked from one process, started when the first of them is, that has imported torch."""
    from tests.module_process import SERVER

    LocalExecutor.server = SERVER


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests of the browser come last: while its driver lives, an event loop runs in the main thread.

    Tests on a real PostgreSQL are left to ``make test-all``.
    """
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        named = any(isinstance(value, str) and value in POSTGRES for value in parameters.values())
        if named or "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.extended)
    last = {item.path for item in items if item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path in last)


@pytest.fixture
def process_as_before() -> Iterator[None]:
    """For tests of programs within this process: tests that come after would start jobs with what a program has set."""
    import torch

    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


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
    return Path(str(resources.files("lcl_core"))) / "data" / "sample" / "drawings.zip"


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait until a condition holds; fail at a deadline that is generous for a busy machine."""

    def wait(condition: Callable[[], object], what: str = "the condition", seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true within {seconds:g} s"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3-compatible server on a free port of this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("flask", reason="moto's server is not installed")
    server = pytest.importorskip("moto.server", reason="moto's server is not installed")
    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, which the environment has the credentials for."""
    import fsspec

    names = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "key", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**names, "AWS_SECRET_ACCESS_KEY": "sesame"}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a real PostgreSQL server that lives as long as the tests."""
    from benchmarks import databases

    with databases.postgres_server(fsync=False) as url:
        yield url


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


class SmallDisk:
    """A file system of a few megabytes in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no byte."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 1 << 12, 1):  # the last one ends with the error
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        self._filler.unlink()

    def make_writable(self, writable: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", self.path], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Skipped where mounting is not permitted."""
    path = tmp_path / "small disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store of artifacts: of the kind that the test's parameter names, in memory without one."""
    kind = getattr(request, "param", "memory")
    if kind == "s3":
        yield f"{request.getfixturevalue('s3_bucket')}/team/artifacts"
    elif kind == "file":
        yield f"file://{tmp_path / 'store'}"
    else:
        url = f"memory://{uuid.uuid4().hex}/artifacts"
        yield url
        import fsspec

        with suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture(scope="session")
def docs_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site as ``make docs`` builds it, strictly: a link that leads nowhere ends the build."""
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "scripts.build_docs", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == str(out / "index.html")
    return out
