"""How far a run over a corpus is, as lines of metrics."""

from __future__ import annotations

import time

from lcl_core.common.run_dir import RunDir

EVERY_SECONDS = 0.5


class JobProgress:
    """Called with (records done, records in all or None); writes a line now and then and honours a stop request."""

    def __init__(self, run_dir: RunDir, phase: str, every: float = EVERY_SECONDS) -> None:
        self._run_dir = run_dir
        self._phase = phase
        self._every = every
        self._started = time.monotonic()
        self._last_written = self._started - every

    def __call__(self, done: int, total: int | None) -> None:
        """Raises: Cancelled."""
        now = time.monotonic()
        if now - self._last_written >= self._every or done == total:
            self._last_written = now
            self._write_metrics(done, total, now - self._started)
        self._run_dir.raise_if_stopped()

    def _write_metrics(self, done: int, total: int | None, seconds: float) -> None:
        known = {}
        if total:
            known = {"total_steps": total, "seconds_left": round(seconds / max(done, 1) * (total - done), 1)}
        rate = round(done / max(seconds, 1e-9), 1)
        self._run_dir.append_metrics(step=done, phase=self._phase, records_per_s=rate, **known)
