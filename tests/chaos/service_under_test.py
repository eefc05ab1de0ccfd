"""The service on one folder, as deploy.local_stack starts it, under a supervisor that restarts what has died."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from api.client import Client
from deploy.process import LOOPBACK, Service, free_port, responds
from tests.chaos.service_processes import Broker, Launched, Part, Postgres, short_folder
from tests.chaos.tcp_proxy import TcpProxy

LEASE_SECONDS = 3.0
FAST_SETTINGS = {
    "LCL_LEASE_SECONDS": str(LEASE_SECONDS),
    "LCL_HEARTBEAT_SECONDS": "0.5",
    "LCL_WATCH_SECONDS": "0.1",
    "LCL_REAP_SECONDS": "0.4",
    "LCL_WORKER_SLOTS": "2",  # so that somebody is free to take over what a frozen worker still works on
    "LCL_CANCEL_GRACE_SECONDS": "10",
    "LCL_WELCOME": "false",
    "LCL_LOG_FORMAT": "json",
    "OMP_NUM_THREADS": "1",
}
BACKOFF_SECONDS = 0.5
TICK_SECONDS = 0.05
START_SECONDS = 120.0


@dataclass
class SupervisedPart:
    """A part and what its supervisor has in mind."""

    name: str
    part: Part
    start_at: float | None = None  # of the monotonic clock
    thaw_at: float | None = None
    frozen_groups: tuple[int, ...] = ()  # process groups of jobs that go on with it

    @property
    def up(self) -> bool:
        return self.start_at is None and self.thaw_at is None and self.part.alive

    def kill(self, away: float) -> None:
        self._signal_groups(signal.SIGCONT)  # nobody else would: a stopped job never ends, and keeps its folder's lock
        self.frozen_groups = ()
        self.part.kill()
        self.start_at, self.thaw_at = time.monotonic() + away, None

    def freeze(self, away: float, groups: Iterable[int] = ()) -> None:
        os.kill(self.part.pid, signal.SIGSTOP)
        self.frozen_groups = tuple(groups)
        self._signal_groups(signal.SIGSTOP)
        self.thaw_at = time.monotonic() + away

    def thaw(self) -> None:
        self._signal_groups(signal.SIGCONT)
        os.kill(self.part.pid, signal.SIGCONT)
        self.thaw_at, self.frozen_groups = None, ()

    def _signal_groups(self, number: signal.Signals) -> None:
        for group in self.frozen_groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)

    def tend(self) -> None:
        """Start it or let it go on if it is time; see whether it left by itself."""
        now = time.monotonic()
        if self.thaw_at is not None and now >= self.thaw_at:
            self.thaw()
        if self.start_at is None and not self.part.alive:
            self.start_at = now + BACKOFF_SECONDS
        if self.start_at is not None and now >= self.start_at:
            self.part.start()
            self.start_at = None


class ServiceUnderTest:
    """A context manager: after entry everything answers, after exit nothing runs any more.

    Parts are started from the thread that enters, and die with it.

    Args:
        home: ``LCL_HOME``.
        postgres: on PostgreSQL, else on SQLite.
        workers: how many.
    """

    def __init__(self, home: Path, *, postgres: bool = True, workers: int = 3, step_seconds: float = 0.05) -> None:
        self.home, self._on_postgres, self._count = home.resolve(), postgres, workers
        self._step_seconds = step_seconds
        self._cleanup = ExitStack()
        self.parts: dict[str, SupervisedPart] = {}
        self.proxies: dict[str, TcpProxy] = {}  # between each worker and PostgreSQL
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self.database_url = f"sqlite:///{self.home / 'lcl.db'}"
        self.api_url = f"http://{LOOPBACK}:{free_port(0)}"

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self, attempts: int = 1) -> Client:
        key = (self.home / "key").read_text(encoding="ascii").strip()
        return Client(self.api_url, key, timeout=20.0, attempts=attempts)

    def worker_names(self) -> list[str]:
        return [name for name in self.parts if name.startswith("worker")]

    def draw(self, names: list[str], draw: float) -> SupervisedPart | None:
        """One of the parts that are up now; None when none is."""
        up = [self.parts[name] for name in names if self.parts[name].up]
        return random.Random(draw).choice(up) if up else None

    def undo_after(self, seconds: float, undo: Callable[[], None]) -> None:
        """End a fault that is not a part's own."""
        self._undo.append((time.monotonic() + seconds, undo))

    def _undo_due(self, moment: float) -> None:
        due = [undo for at, undo in self._undo if at <= moment]
        self._undo = [(at, undo) for at, undo in self._undo if at > moment]
        for undo in due:
            undo()

    def tend(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Be the supervisor for so long, or until something is so; returns whether it is."""
        deadline = time.monotonic() + seconds
        while not (so := until()) and time.monotonic() < deadline:
            for part in self.parts.values():
                part.tend()
            self._undo_due(time.monotonic())
            time.sleep(TICK_SECONDS)
        return so

    def heal(self) -> None:
        """Start what is down and let go on what is frozen, now."""
        self._undo_due(float("inf"))
        for part in self.parts.values():
            part.start_at = None if part.start_at is None else 0.0
            part.thaw_at = None if part.thaw_at is None else 0.0
        self._await(lambda: responds(f"{self.api_url}/readyz"), "readiness")

    def stop(self) -> None:
        """Workers first, then the api, then what they stand on; the frozen are let go on, for an orderly end."""
        self._undo_due(float("inf"))
        for part in reversed(self.parts.values()):
            if part.thaw_at is not None:
                part.thaw()
            if part.start_at is None:
                part.part.stop()
        self.parts.clear()
        self._cleanup.close()

    def _start(self) -> None:
        if self._on_postgres:
            server = Postgres(self._cleanup.enter_context(short_folder()))
            self.database_url = server.url
            self._add("postgres", server)
        broker = Broker(self.home)
        self._add("broker", broker)
        shared = {**FAST_SETTINGS, "LCL_HOME": str(self.home), "LCL_DATABASE_URL": self.database_url}
        shared |= {"LCL_BROKER_URL": broker.url, "LCL_CHAOS_STEP_SECONDS": str(self._step_seconds)}
        api = {**shared, "LCL_API_HOST": LOOPBACK, "LCL_API_PORT": self.api_url.rpartition(":")[2]}
        self._add("api", Launched(Service("api", ("python", "-m", "api"), api, grace=10), self.home / "logs"))
        self._await(lambda: responds(f"{self.api_url}/healthz"), "the api")
        for number in range(self._count):
            name, own = f"worker{number}", dict(shared)
            if self._on_postgres:
                self.proxies[name] = self._cleanup.enter_context(TcpProxy(self.database_url))
                own["LCL_DATABASE_URL"] = self.proxies[name].url
            service = Service(name, ("python", "-m", "tests.chaos.worker"), own, grace=20)
            self._add(service.name, Launched(service, self.home / "logs"))
        self._await(lambda: responds(f"{self.api_url}/readyz"), "the first worker")

    def _add(self, name: str, part: Part) -> None:
        part.start()
        self.parts[name] = SupervisedPart(name, part)

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        if not self.tend(START_SECONDS, ready):
            raise TimeoutError(f"{what} did not come up within {START_SECONDS:.0f} s; see {self.home / 'logs'}")


def processes_of(home: Path) -> dict[int, str]:
    """The command of every process, other than this one, whose command line or environment names ``home``."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
            observed = (folder / "environ").read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if words and int(folder.name) != os.getpid() and str(home) in words + observed:
            found[int(folder.name)] = words
    return found
