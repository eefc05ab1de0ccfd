"""The api as a deployment runs it, a process of its own with team settings, a broker, and either database; and a plain
route to compare it with."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from api.client import Client
from benchmarks.databases import database_for
from deploy.embedded_redis import EmbeddedBroker
from deploy.process import LOOPBACK, ProcessStack, Service, free_port, responds
from lcl_core.db.session import Database

START_SECONDS = 60.0


@dataclass(frozen=True)
class RunningApi:
    """A running api: URL, admin key, home and database."""

    url: str
    key: str
    home: Path
    database: Database

    def keys(self, owners: int) -> list[str]:
        """New submitter keys, one an owner."""
        with Client(self.url, self.key) as admin:
            return [admin.create_key(f"owner-{number}", "submitter")["key"] for number in range(owners)]

    def resident_bytes(self) -> int:
        return int(process_metric(self.url, "process_resident_memory_bytes"))


def process_metric(url: str, name: str) -> float:
    """A metric that the service at ``url`` exposes to Prometheus."""
    text = httpx.get(f"{url}/metrics", timeout=60, trust_env=False, follow_redirects=True).text
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert match, f"the service exposes no {name}"
    return float(match[1])


@contextmanager
def running_api(kind: str, name: str = "api", env: Mapping[str, str] | None = None) -> Iterator[RunningApi]:
    """An api on an empty home with a database of the kind, until the end of the block."""
    with (
        TemporaryDirectory(prefix="lcl-bench-") as folder,
        database_for(kind, Path(folder)) as url,
        EmbeddedBroker(Path(folder)) as broker,
    ):
        key, port = secrets.token_urlsafe(32), free_port(0)
        environment = {
            "LCL_HOME": folder,
            "LCL_DATABASE_URL": url,
            "LCL_BROKER_URL": broker.url,
            "LCL_API_HOST": LOOPBACK,
            "LCL_API_PORT": str(port),
            "LCL_TEAM": "1",
            "LCL_ADMIN_KEY": key,
            "LCL_WELCOME": "false",
            "LCL_LOG_FORMAT": "json",
            **(env or {}),
        }
        stack, address, database = ProcessStack(Path(folder) / "logs"), f"http://{LOOPBACK}:{port}", Database(url)
        try:
            stack.start(Service(name, ("python", "-m", "api"), environment))
            stack.wait_until(lambda: responds(f"{address}/healthz"), "the api", START_SECONDS)
            yield RunningApi(address, key, Path(folder), database)
        finally:
            stack.stop()
            database.dispose()


@contextmanager
def plain_route(*arguments: str) -> Iterator[str]:
    """URL of a ``benchmarks.baseline_app`` with these arguments, until the end of the block."""
    port = free_port(0)
    url = f"http://{LOOPBACK}:{port}"
    with TemporaryDirectory(prefix="lcl-bench-plain-") as folder:
        stack = ProcessStack(Path(folder))
        try:
            stack.start(Service("plain", ("python", "-m", "benchmarks.baseline_app", str(port), *arguments)))
            stack.wait_until(lambda: responds(f"{url}/healthz"), "the plain route", START_SECONDS)
            yield url
        finally:
            stack.stop()
