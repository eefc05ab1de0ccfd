"""A process that is killed between two changes of a file system, simulated by an exception."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


class _Killed(BaseException):
    """No ``except Exception`` handles it."""


class Interrupted:
    """Context that is left before the change after the first ``changes``: renames, removals and flushes count.

    Attributes:
        reached: whether it was left there.
    """

    def __init__(self, changes: int) -> None:
        self._left, self._patch, self.reached = changes, pytest.MonkeyPatch(), False

    def __enter__(self) -> Interrupted:
        for owner, name in ((Path, "rename"), (shutil, "rmtree"), (os, "fsync"), (os, "unlink")):
            self._patch.setattr(owner, name, self._counted(getattr(owner, name)))
        return self

    def _counted(self, real: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._left == 0:
                self.reached = True
                raise _Killed
            self._left -= 1
            return real(*arguments, **options)

        return counted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._patch.undo()
        return kind is _Killed


def interrupted_everywhere() -> Iterator[Interrupted]:
    """For each change in turn a context that is left before it; the last one is not interrupted."""
    changes = 0
    while True:
        interrupted = Interrupted(changes)
        yield interrupted
        if not interrupted.reached:
            return
        changes += 1
