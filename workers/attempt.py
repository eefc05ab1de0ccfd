"""One attempt at a run, as the parts of a worker share it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.leases import Claim
from lcl_core.db.session import Database
from workers.lease_keeper import LeaseKeeper
from workers.settings import WorkerSettings


class WorkClock:
    """Seconds of work on a run: those of earlier attempts, and those since ``start`` without pauses. Thread-safe."""

    def __init__(self, earlier_seconds: float) -> None:
        self._counted: tuple[float, float | None] = (earlier_seconds, None)  # until the last pause; since when it runs

    def start(self) -> None:
        if self._counted[1] is None:
            self._counted = (self._counted[0], time.monotonic())

    def pause(self) -> None:
        """Until the next ``start`` no second counts."""
        self._counted = (self.seconds, None)

    @property
    def seconds(self) -> float:
        earlier, started = self._counted
        return earlier + (0.0 if started is None else time.monotonic() - started)


@dataclass(frozen=True)
class Attempt:
    """
    Attributes:
        lease: renewed, and the process ended by it, independently of what else happens.
        stopping: set when the worker stops.
    """

    database: Database
    settings: WorkerSettings
    artifacts: Artifacts
    claim: Claim
    run_dir: RunDir
    lease: LeaseKeeper
    clock: WorkClock
    stopping: threading.Event
