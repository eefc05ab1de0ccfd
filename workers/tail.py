"""Follows a growing ``metrics.jsonl``, also across the moment when a resumed process cuts it back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

log = structlog.get_logger(__name__)


class MetricsTail:
    """Reads whole new lines. A line that is no metric is left out and logged once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """New metric lines, and whether the file was replaced, so that they are all it holds now."""
        rewound = self._reopen_if_replaced()
        if self._file is None:
            return [], rewound
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [metric for line in lines if (metric := _metric(line)) is not None], rewound

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen_if_replaced(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # not written yet, or between two versions: the next look will tell
        if self._file is not None:
            mine = os.fstat(self._file.fileno())
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino) and there.st_size >= self._file.tell():
                return False
        self.close()
        self._file = self._path.open("rb")
        self._rest = b""
        return True


@dataclass
class Unsaved:
    """Metric lines that the database does not have yet. False when there is nothing to tell it."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    rewound: bool = False  # ``lines`` is all that the file holds

    def take(self, tail: MetricsTail) -> None:
        """Add what ``tail`` has to tell."""
        lines, rewound = tail.read()
        self.lines = lines if rewound else self.lines + lines
        self.rewound |= rewound

    def __bool__(self) -> bool:
        return bool(self.lines) or self.rewound


def _metric(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("step"), int):
        return value
    log.warning("metric_line_unreadable", line=line[:200].decode("utf-8", "replace"))
    return None
