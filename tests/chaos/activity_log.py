"""Which process worked on which run and when, appended by the job processes to one file."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

HEARTBEAT_SECONDS = 0.05


@dataclass(frozen=True)
class ActivitySpan:
    """A process from when it began to work on ``run`` to when it was last seen, in seconds of the machine's clock."""

    run: str
    pid: int
    began: float
    seen: float


@contextmanager
def record_activity(book: Path, run_id: str) -> Iterator[None]:
    """Write that this process is at work, now and every BEAT_SECONDS until the end."""
    handle = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    over = threading.Event()
    # one pid may serve twice in a long trial, so a life is named by its beginning too
    began = time.monotonic()

    def beat() -> None:
        line = {"run": run_id, "pid": os.getpid(), "began": began, "seen": time.monotonic()}
        os.write(handle, json.dumps(line).encode() + b"\n")  # one write: O_APPEND keeps lines whole

    def beats() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            beat()

    beat()
    thread = threading.Thread(target=beats, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        beat()


def read_activity(book: Path) -> list[ActivitySpan]:
    """Every life in the book, in order of beginning."""
    spans: dict[tuple[str, int, float], ActivitySpan] = {}
    for line in book.read_text(encoding="utf-8").splitlines() if book.exists() else ():
        span = ActivitySpan(**json.loads(line))
        spans[span.run, span.pid, span.began] = span
    return sorted(spans.values(), key=lambda span: span.began)


def overlaps(spans: list[ActivitySpan]) -> list[tuple[int, int]]:
    """Processes that were at work on one run at the same time."""
    return [
        (one.pid, other.pid)
        for one, other in combinations(spans, 2)
        if one.run == other.run and min(one.seen, other.seen) > max(one.began, other.began)
    ]
