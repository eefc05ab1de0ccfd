"""How the demonstration shows a run: a live bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from deploy.demo import Screen

Json = dict[str, Any]
PLAIN_SECONDS = 5.0
WAITING = {"queued": "waiting for the worker", "running": "starting"}
COLUMNS = (
    ("step", "step {:,.0f}"),
    ("contrastive_loss", "contrastive {:.3f}"),
    ("generation_loss", "generation {:.3f}"),
    ("images_per_s", "{:,.0f} images/s"),
)


def describe(run: Json) -> str:
    """Step, both losses, images a second and time left, as far as they are known."""
    progress = run.get("progress") or {}
    if not progress:
        return WAITING.get(run["state"], str(run["state"]))
    total = progress.get("total_steps")
    parts = [shape.format(progress[name]) for name, shape in COLUMNS if progress.get(name) is not None]
    if total and parts and progress.get("step") is not None:
        parts[0] += f" of {total:,.0f}"
    if progress.get("phase"):
        parts.insert(0, str(progress["phase"]))
    if progress.get("seconds_left") is not None and run["state"] == "running":
        parts.append(f"{clock(progress['seconds_left'])} left")
    return " · ".join(parts)


def ending(run: Json) -> str:
    """How a run ended, after how long, and what it said last."""
    parts = [str(run["state"])]
    if run.get("started_at") and run.get("finished_at"):
        took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
        parts[0] += f" in {clock(took.total_seconds())}"
    if run.get("progress"):
        parts.append(describe(run))
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes}:{rest:02d}"


class PlainScreen:
    """One line every few seconds, and one at the end of each run."""

    def __init__(self, console: Console, every: float = PLAIN_SECONDS) -> None:
        self.console = console
        self.every = every
        self._next = 0.0
        self._last = ""

    def update(self, run: Json) -> None:
        text = describe(run)
        if time.monotonic() >= self._next and text != self._last:
            self._next, self._last = time.monotonic() + self.every, text
            self._print(run, text)

    def finish(self, run: Json) -> None:
        self._next, self._last = 0.0, ""
        self._print(run, ending(run))

    def _print(self, run: Json, text: str) -> None:
        self.console.print(f"{run['kind']:<9} {text}", highlight=False, markup=False, soft_wrap=True)


class LiveScreen:
    """One bar for each run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._bars: dict[str, TaskID] = {}

    def update(self, run: Json) -> None:
        if run["id"] not in self._bars:
            self._bars[run["id"]] = self.progress.add_task(run["kind"], total=None, text="")
        done = run.get("progress") or {}
        self.progress.update(
            self._bars[run["id"]], completed=done.get("step", 0), total=done.get("total_steps"), text=describe(run)
        )

    def finish(self, run: Json) -> None:
        self.update(run)
        self.progress.update(self._bars[run["id"]], text=ending(run))
        if run["state"] == "succeeded":
            self.progress.update(self._bars[run["id"]], completed=1, total=1)


@contextmanager
def screen_on(console: Console) -> Iterator[Screen]:
    """The screen that suits ``console``."""
    if not console.is_terminal:
        yield PlainScreen(console)
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(24), TextColumn("{task.fields[text]}", markup=False))
    with Progress(*columns, console=console) as progress:
        yield LiveScreen(progress)
