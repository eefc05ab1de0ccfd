"""How far an examination is, in the run's metrics file."""

from __future__ import annotations

import time
from collections.abc import Callable

from lcl_core.rundir import RunDir

_SECONDS_BETWEEN = 0.5


class Progress:
    """Counts work units (an embedded picture is one) and honours a stop request between them.

    Args:
        total: units in the whole run, known before it starts.
        clock: seconds; monotonic.
    """

    def __init__(self, run_dir: RunDir, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir = run_dir
        self._total = total
        self._clock = clock
        self._started = clock()
        self._written = self._started
        self._done = 0.0
        self._phase = ""

    def enter(self, phase: str) -> None:
        """Name what comes next, and write it down at once."""
        self._phase = phase
        self._write()

    def add(self, units: float) -> None:
        """Count ``units``. Raises: Cancelled if the run was told to stop."""
        self._run_dir.raise_if_stopped()
        self._done += units
        if self._clock() - self._written >= _SECONDS_BETWEEN:
            self._write()

    def finish(self) -> None:
        self._done = self._total
        self.enter("done")

    def _write(self) -> None:
        self._run_dir.raise_if_stopped()
        now = self._written = self._clock()
        left = (now - self._started) * (self._total / self._done - 1) if self._done else None
        known = {} if left is None else {"seconds_left": round(max(left, 0.0), 1)}
        self._run_dir.append_metrics(step=round(self._done), total_steps=round(self._total), phase=self._phase, **known)
