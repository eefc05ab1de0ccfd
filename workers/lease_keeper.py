"""A lease that a worker has: renewed by one thread, enforced by another that depends on no answer.

The renewal thread extends the lease every ``heartbeat_seconds``. The deadline thread reads the boot clock alone.
Without a confirmed renewal it sends the job SIGTERM after half of the lease, so that it writes a checkpoint, and
SIGKILL after .8 of it: whatever the database connection does, the job has ended before another worker gets the run.
A job whose machine slept for so long is killed when it wakes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog
from sqlalchemy.orm import Session

from lcl_core.common.logging import log_database_error
from lcl_core.common.processes import boot_time
from lcl_core.common.run_dir import RunDir
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.leases import Claim, StaleLease
from lcl_core.db.session import UNREACHABLE, Database
from lcl_core.db.states import State
from workers.executors.base import Job
from workers.settings import KILL_SHARE, TERMINATE_SHARE, WorkerSettings


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


_JOIN_SECONDS = 15.0
_MAX_TICK_SECONDS = 1.0

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class AttemptInterrupted(Exception):
    """The worker or the run was stopped before the run's process was started."""


class LeaseKeeper:
    """Keeps one lease from the claim to the end of the block. Thread-safe.

    Args:
        renew: extends the lease in a transaction; returns the run's state if it knows. Raises StaleLease.
        stopping: set when the worker stops.
    """

    def __init__(
        self,
        database: Database,
        settings: WorkerSettings,
        run_id: str,
        renew: Callable[[Session], State | None],
        stopping: threading.Event,
    ) -> None:
        self._database, self._settings, self._run_id = database, settings, run_id
        self._renew, self._stopping = renew, stopping
        self._seconds = settings.lease_seconds
        self._lock = threading.Lock()  # of the process and of what follows about it
        self._process: Job | None = None
        self._kill_at = float("inf")  # monotonic clock
        self._renewed = float("-inf")  # boot clock, from before the last confirmed renewal was sent
        self._released = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("lease", self._keep_renewing), ("deadline", self._enforce))
        ]
        self.lost = False
        self.state: State | None = None
        self.ended_process = False  # the job was asked to leave, or was killed, because the lease was not renewed

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)  # a renewal may wait for a reply that never comes

    def check(self) -> None:
        """Raises: StaleLease when the database has said that another worker may have the run."""
        if self.lost:
            raise StaleLease(self._run_id)

    def confirm(self) -> None:
        """Wait until a renewal is fresh enough to start a process. Raises: StaleLease, AttemptInterrupted."""
        while boot_time() > self._renewed + TERMINATE_SHARE * self._seconds:
            self.raise_if_interrupted()
            time.sleep(self._settings.watch_seconds / 20)  # the first renewal takes milliseconds
        self.check()

    def raise_if_interrupted(self) -> None:
        """Raises: AttemptInterrupted when the worker stops or the run is being paused or cancelled; StaleLease."""
        self.check()
        if self._stopping.is_set():
            raise AttemptInterrupted("the worker is leaving")
        if self.state not in (None, State.RUNNING):
            raise AttemptInterrupted("it was stopped before its process was started")

    def persist(self, work: Callable[[], Result]) -> Result:
        """Result of ``work``, which is repeated while the database is unreachable.

        No other worker gets the run before the database has been back for a lease, so waiting loses nothing.

        Raises: StaleLease; UNREACHABLE when the worker has been stopping for ``cancel_grace_seconds``.
        """
        give_up_at = float("inf")
        while True:
            try:
                return work()
            except UNREACHABLE as error:
                self.check()
                if self._stopping.is_set():
                    give_up_at = min(give_up_at, time.monotonic() + self._settings.cancel_grace_seconds)
                if time.monotonic() > give_up_at:
                    raise
                log_database_error(error)
            time.sleep(self._settings.watch_seconds)

    @contextmanager
    def protect(self, process: Job) -> Iterator[None]:
        """End ``process`` when the lease is not renewed in time, and after :meth:`end_process`."""
        with self._lock:
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process, self._kill_at = None, float("inf")

    def end_process(self, grace_seconds: float) -> None:
        """SIGTERM to the process, and SIGKILL to its group after the grace."""
        with self._lock:
            self._kill_at = min(self._kill_at, time.monotonic() + grace_seconds)
            if self._process is not None:
                self._process.terminate()

    def _keep_renewing(self) -> None:
        # a failed renewal is repeated several times before the job is asked to leave
        retry = min(self._settings.watch_seconds, self._seconds / 20)
        while not self.lost:
            wait = self._settings.heartbeat_seconds if self._renew_once() else retry
            if self._released.wait(wait):
                return

    def _renew_once(self) -> bool:
        sent = boot_time()
        try:
            with self._database.session() as session:
                state = self._renew(session)
        except StaleLease:
            self.lost = True  # or the block has just released it
            return False
        except UNREACHABLE as error:
            if not self._released.is_set():
                log_database_error(error)
            return False
        except Exception:  # an error of ours: the deadline thread ends the job in time
            log.exception("renewal_failed")
            return False
        self.state, self._renewed = state, sent
        return True

    def _enforce(self) -> None:
        tick = min(_MAX_TICK_SECONDS, self._settings.watch_seconds, self._seconds / 20)
        while not self._released.wait(tick):
            with self._lock:
                if self._process is None:
                    continue
                try:
                    self._enforce_on(self._process)
                except Exception:  # of an engine that does not answer: tried again at the next tick
                    log.exception("job_not_ended")

    def _enforce_on(self, process: Job) -> None:
        age = boot_time() - self._renewed
        expiring, exceeded = age > KILL_SHARE * self._seconds, time.monotonic() > self._kill_at
        if self.lost or expiring or exceeded:
            log.warning("job_killed", lease_lost=self.lost, lease_age=round(age, 1), grace_exceeded=exceeded)
            self.ended_process |= expiring
            process.kill()
            self._process = None  # its id may soon be that of another process group
        elif age > TERMINATE_SHARE * self._seconds and not self.ended_process:
            log.warning("lease_not_renewed", lease_age=round(age, 1))
            process.terminate()
            self.ended_process = True
