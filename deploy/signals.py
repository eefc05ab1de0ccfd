"""Ctrl-C and friends, in two stages: the first asks for an orderly end, a second one for a quick one."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the launcher to end. Not an Exception, so that nothing mistakes it for an error."""


class Signals:
    """A context manager that turns the first signal into Interrupted, and later ones into ``hurry()``."""

    def __init__(self) -> None:
        self._stopping = False
        self._hurry = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {which: signal.signal(which, self._on_signal) for which in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def begin_stopping(self) -> None:
        """From now on signals interrupt nothing; they only make the end quicker."""
        self._stopping = True

    def hurry(self) -> bool:
        return self._hurry

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            self._hurry = True
            return
        self._stopping = True
        raise Interrupted
