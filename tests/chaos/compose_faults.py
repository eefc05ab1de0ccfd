"""Fault injection on the containers of the team deployment, and what can be observed of it from outside."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from api.client import ApiError, Client
from deploy.process import LOOPBACK, PROJECT, free_port
from tests.chaos.activity_log import ActivitySpan
from tests.chaos.fault_plan import SHORT_OUTAGE, Fault, FaultKind

NAME = "lcl-chaos"
NETWORK = f"{NAME}_inside"
LEASE_SECONDS = 20.0  # as hurry.yml says
HOME = "/var/lib/lcl"
TICK_SECONDS, LOOK_SECONDS = 0.2, 0.25
HEAL_SECONDS = 180.0
TRAINER = re.compile(rf"-m lcl_core\.train {HOME}/runs/(\S+)$")
# a zombie is one that comes back after its lease; a database may be away for longer than one
CONTAINERS = {
    "worker killed": FaultKind(4),
    "worker disconnected": FaultKind(3, (1.1, 1.7)),
    "worker frozen": FaultKind(2, (1.1, 1.7)),
    "api killed": FaultKind(2),
    "api disconnected": FaultKind(1),
    "postgres killed": FaultKind(2, (0.0, 0.6)),
    "postgres disconnected": FaultKind(2, (0.0, 1.3)),
    "redis killed": FaultKind(2),
    "redis disconnected": FaultKind(1, SHORT_OUTAGE),
}
Undo = tuple[str, ...]  # words after ``docker``


class ComposeTarget:
    """A trial's ground (``tests.chaos.trial.FaultTarget``) on docker-compose.yml, with hurry.yml over it.

    A context manager: after exit neither containers nor volumes are left.
    """

    dialect = "postgresql"

    def __init__(self, workers: int = 3) -> None:
        self._workers = workers
        self._key = secrets.token_hex(32)
        self._port = free_port(0)
        given = {"LCL_ADMIN_KEY": self._key, "LCL_PORT": str(self._port), "COMPOSE_PROJECT_NAME": NAME}
        made = {name: secrets.token_hex(32) for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD")}
        self._environment = {**os.environ, **given, **made}
        self._due: dict[str, tuple[float, Undo]] = {}  # by container
        self._lives: dict[tuple[str, int, float], ActivitySpan] = {}
        self._refusal = ""  # docker's last one
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.heal()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.tend(HEAL_SECONDS, self._undone)  # what is frozen cannot be told to leave
        self._compose("down", "--volumes", "--timeout", "30")

    def client(self) -> Client:
        return Client(f"http://{LOOPBACK}:{self._port}", self._key, timeout=20.0, attempts=1)

    def tend(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        deadline = time.monotonic() + seconds
        while not (so := until()) and time.monotonic() < deadline:
            for container, (due, undo) in list(self._due.items()):
                if time.monotonic() >= due and self._granted(*undo):
                    del self._due[container]
            time.sleep(TICK_SECONDS)
        return so

    def heal(self) -> None:
        """Raises: RuntimeError when the service is not ready after HEAL_SECONDS."""
        if not self.tend(HEAL_SECONDS, self._undone):
            raise RuntimeError(f"docker did not undo what was done to {sorted(self._due)}: {self._refusal}")
        if not self.tend(HEAL_SECONDS, self._all_up):
            raise RuntimeError(f"docker did not start everything again: {self._refusal}")
        if not self.tend(HEAL_SECONDS, self._ready):
            raise RuntimeError(f"not ready {HEAL_SECONDS:.0f} s after the last fault; unwell: {self.unwell()}")

    def unwell(self) -> list[str]:
        """Containers that Docker does not call healthy."""
        lines = self._compose("ps", "--all", "--format", "{{.Name}} {{.Health}}").splitlines()
        return [line for line in lines if not line.endswith(" healthy")]

    def inject(self, fault: Fault) -> bool:
        """Do it to one of the service's containers that nothing has been done to."""
        service, _, how = fault.kind.partition(" ")
        free = [name for name in self._containers(service) if name not in self._due]
        if not free:
            return False
        container = random.Random(fault.draw).choice(free)
        do, undo = {
            "killed": (("kill", container), ("start", container)),
            "frozen": (("pause", container), ("unpause", container)),
            "disconnected": (
                ("network", "disconnect", NETWORK, container),
                ("network", "connect", "--alias", service, NETWORK, container),
            ),
        }[how]
        if not self._granted(*do):
            return False  # it died meanwhile, or is being started again; another moment will do
        self._due[container] = (time.monotonic() + fault.away * LEASE_SECONDS, undo)
        return True

    def execute(self, statement: str) -> None:
        self._psql("--command", statement)

    def rows(self, query: str) -> list[dict[str, Any]]:
        return json.loads(self._psql("--command", f"SELECT coalesce(json_agg(t), '[]') FROM ({query}) t"))

    def spans(self) -> list[ActivitySpan]:
        return sorted(self._lives.values(), key=lambda span: span.began)

    def digest_at(self, path: str) -> str | None:
        weights = f"{HOME}/{path}/model.safetensors"
        words = self._compose("exec", "-T", "api", "sh", "-c", 'sha256sum "$0" || true', weights).split()
        return words[0] if words else None

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for pid, run in trainers().items():
                began = started_at(pid)
                if began is not None:
                    self._lives[run, pid, began] = ActivitySpan(run, pid, began, time.monotonic())

    def _containers(self, service: str) -> list[str]:
        """Names of those that run."""
        given = self._compose("ps", "--format", "{{.Name}}", "--status", "running", service)
        return sorted(given.split())

    def _all_up(self) -> bool:
        """Start what has ended. Refused while somebody is still called unhealthy for what was done to it."""
        try:
            self._compose("up", "--detach", "--no-recreate", "--scale", f"worker={self._workers}")
        except RuntimeError as error:
            self._refusal = str(error)
            return False
        return True

    def _ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.health()["ready"])
        except ApiError:
            return False

    def _undone(self) -> bool:
        """Undo now whatever has not been undone; whether nothing is left."""
        self._due = {container: (0.0, undo) for container, (_, undo) in self._due.items()}
        return not self._due

    def _granted(self, *words: str) -> bool:
        """Docker refuses what comes while it starts a container again."""
        try:
            self._docker(*words)
        except RuntimeError as error:
            self._refusal = str(error)
            return False
        return True

    def _psql(self, *words: str) -> str:
        return self._compose(
            *("exec", "-T", "postgres", "psql", "-U", "lcl", "-d", "lcl", "-v", "ON_ERROR_STOP=1", "-qAt"), *words
        )

    def _compose(self, *words: str) -> str:
        over = Path(__file__).parent / "hurry.yml"
        return self._docker("compose", "-f", "docker-compose.yml", "-f", str(over), *words)

    def _docker(self, *words: str) -> str:
        """Standard output. Raises: RuntimeError with what docker said."""
        done = subprocess.run(
            ["docker", *words], cwd=PROJECT, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()[-2000:]}")
        return done.stdout


def trainers() -> dict[int, str]:
    """The run of each process that leads one's session, in whatever container; loaders are not counted."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ").strip()
            named = TRAINER.search(command)
            if named and os.getsid(int(folder.name)) == int(folder.name):
                found[int(folder.name)] = named[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def started_at(pid: int) -> float | None:
    """Seconds of the machine's clock; None when the process is gone."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(ticks) / os.sysconf("SC_CLK_TCK")
