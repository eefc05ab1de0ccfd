"""Fault injection on the processes of a service under test, and what can be observed of it from outside."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from lcl_core.common.files import sha256_file
from lcl_core.common.run_dir import RunDir
from tests.chaos.activity_log import ActivitySpan, read_activity
from tests.chaos.fault_plan import Fault
from tests.chaos.service_under_test import LEASE_SECONDS, ServiceUnderTest, processes_of
from tests.chaos.toy_job import ACTIVITY_LOG

NAMES = re.compile(r" to |[/'<.]")  # with which what is particular begins in other people's lines
LOCK_SECONDS = 1.0  # for the lock of a process that was killed
OWN = re.compile(r"-m tests\.chaos\.toy_job \S+$")
BUSY = "SELECT worker.pid FROM run JOIN worker ON worker.id = run.lease_owner WHERE run.lease_token IS NOT NULL"
CUT = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()"""


class LocalTarget:
    """A trial's ground (``tests.chaos.trial.FaultTarget``) on this machine's own processes.

    Args:
        engine: on the estate's database, for looking and for cutting.
    """

    def __init__(self, estate: ServiceUnderTest, engine: Engine) -> None:
        self._estate, self._engine = estate, engine
        self.client, self.tend, self.heal = estate.client, estate.tend, estate.heal
        self._ways: dict[str, Callable[[Fault], bool]] = {
            "worker_killed": lambda fault: self._kill(self._estate.worker_names(), fault),
            "worker_frozen": self._freeze,
            "trainer_killed": self._kill_trainer,
            "api_killed": lambda fault: self._kill(["api"], fault),
            "broker_killed": lambda fault: self._kill(["broker"], fault),
            "postgres_killed": lambda fault: self._kill(["postgres"], fault),
            "connections_cut": self._cut,
            "black_hole": self._swallow,
            "clock_gap": self._suspend,
            "folder_locked": self._lock_folder,
        }

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    def execute(self, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def rows(self, query: str) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

    def spans(self) -> list[ActivitySpan]:
        return read_activity(self._estate.home / ACTIVITY_LOG)

    def digest_at(self, path: str) -> str | None:
        weights = self._estate.home / path / "model.safetensors"
        return sha256_file(weights) if weights.is_file() else None

    def inject(self, fault: Fault) -> bool:
        """Do it if there is something to hit now; returns whether there was."""
        return self._ways[fault.kind](fault)

    def _kill(self, names: list[str], fault: Fault) -> bool:
        found = self._estate.draw(names, fault.draw)
        if found is not None:
            found.kill(fault.away * LEASE_SECONDS)
        return found is not None

    def _freeze(self, fault: Fault) -> bool:
        """A worker that is at work on a run, which somebody else takes over meanwhile."""
        busy = self._busy_workers()
        names = [name for name in self._estate.worker_names() if self._estate.parts[name].part.pid in busy]
        found = self._estate.draw(names, fault.draw)
        if found is not None:
            found.freeze(fault.away * LEASE_SECONDS)
        return found is not None

    def _busy_workers(self) -> set[int]:
        """Process ids. Whatever executor has the processes of their runs."""
        try:
            return {row["pid"] for row in self.rows(BUSY)}
        except OperationalError:
            return set()  # the server is down, or starting

    def _suspend(self, fault: Fault) -> bool:
        """A worker with all its jobs, as the machine that they are on."""
        found = self._estate.draw(self._estate.worker_names(), fault.draw)
        if found is not None:
            jobs = [pid for pid, parent in self._trainers().items() if parent == found.part.pid]
            found.freeze(fault.away * LEASE_SECONDS, jobs)
        return found is not None

    def _swallow(self, fault: Fault) -> bool:
        """The replies of the database to one worker."""
        found = self._estate.draw(self._estate.worker_names(), fault.draw)
        if found is not None:
            proxy = self._estate.proxies[found.name]
            proxy.swallow_replies()
            self._estate.undo_after(fault.away * LEASE_SECONDS, proxy.forward_replies)
        return found is not None

    def _lock_folder(self, fault: Fault) -> bool:
        """A process of a run dies, and its folder stays locked, as by a machine that a file system waits for."""
        trainers = sorted(self._trainers())
        if not trainers:
            return False
        killed = random.Random(fault.draw).choice(trainers)
        command = processes_of(self._estate.home).get(killed, "")
        run_dir = RunDir(command.rpartition(" ")[2])
        if not run_dir.path.is_dir():
            return False
        with suppress(ProcessLookupError):
            os.killpg(killed, signal.SIGKILL)
        deadline = time.monotonic() + LOCK_SECONDS
        while not (locked := run_dir.try_lock()) and time.monotonic() < deadline:
            time.sleep(0.001)
        if locked:
            self._estate.undo_after(fault.away * LEASE_SECONDS, run_dir.unlock)
        return locked

    def _kill_trainer(self, fault: Fault) -> bool:
        """The whole process group, as the memory guard of a container would."""
        trainers = sorted(self._trainers())
        if not trainers:
            return False
        try:
            os.killpg(random.Random(fault.draw).choice(trainers), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _trainers(self) -> dict[int, int]:
        """Process by process of a run: its parent."""
        found = [pid for pid, command in processes_of(self._estate.home).items() if OWN.search(command)]
        return {pid: parent for pid in found if (parent := parent_of(pid)) is not None}

    def _cut(self, _: Fault) -> bool:
        try:
            return self.rows(CUT)[0]["count"] > 0
        except OperationalError:
            return False  # the server is down, or starting


def parent_of(pid: int) -> int | None:
    """None when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_logs(logs: Path) -> dict[str, int]:
    """How often the parts logged a warning or an error, by its event; and tracebacks, by their last line."""
    found: Counter[str] = Counter()
    for log in sorted(logs.glob("*.log")):
        part = log.name.partition("-")[0].rstrip("0123456789")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            facts = _parse_log_line(line)
            if facts.get("level") in ("warning", "error", "critical"):
                found[f"{part}: {NAMES.split(facts['event'])[0].strip()}"] += 1
            if "exception" in facts:
                found[f"{part}: traceback: {facts['exception'].strip().splitlines()[-1][:160]}"] += 1
    return dict(found.most_common())


def _parse_log_line(line: str) -> dict[str, Any]:
    """Of a structured line; others have none."""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
