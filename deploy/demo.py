"""Demonstration: pre-train, evaluate and index on the sample corpus over REST, with progress and a result table."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from api.client import ApiError, Client
from lcl_core.common.errors import UserError

Json = dict[str, Any]
POLL_SECONDS = 0.5
FINAL_STATES = ("succeeded", "failed", "cancelled")
LOG_TAIL_LINES = 15
UNAVAILABLE_STATUSES = (0, 502, 503, 504)  # statuses of an api, or of its database, that cannot be reached


class ProgressDisplay(Protocol):
    """Display of progress: a live bar or plain lines."""

    def update(self, run: Json) -> None: ...

    def finish(self, run: Json) -> None: ...


@dataclass(frozen=True)
class DemoResult:
    """The three finished runs, as the service describes them."""

    pretrain: Json
    evaluate: Json
    index: Json


def run_demo(client: Client, display: ProgressDisplay, check: Callable[[], None]) -> DemoResult:
    """Three runs, one after the other.

    Args:
        check: called at every poll; restarts what has died, and raises for what is not restarted any more.

    Raises:
        UserError: ``demo_failed`` with the run's reason, when one did not succeed.
    """
    follow = RunFollower(client, display, check)
    pretrain = follow("pretrain", {"preset": "sample_resnet"})
    encoder = pretrain["encoder_id"]
    # full transfer, which is in the preset too, would take as long as the training
    evaluation = {"preset": "sample", "encoder": encoder, "classification": {"transfer": ["frozen"]}}
    evaluate = follow("evaluate", evaluation)
    index = follow("index", {"encoder": encoder, "collection": "sample"})
    return DemoResult(pretrain, evaluate, index)


@dataclass(frozen=True)
class RunFollower:
    """Submits a run and shows it to its end."""

    client: Client
    display: ProgressDisplay
    check: Callable[[], None]

    def __call__(self, kind: str, spec: Json) -> Json:
        options: Json = {"name": f"demo-{kind}", "tags": ["demo"], "idempotency_key": uuid.uuid4().hex}
        run = self._retry(partial(self.client.submit, kind, spec, **options))
        while run["state"] not in FINAL_STATES:
            self.check()
            self.display.update(run)
            time.sleep(POLL_SECONDS)
            run = self._retry(partial(self.client.run, run["id"]))
        self.display.finish(run)
        if run["state"] != "succeeded":
            raise UserError(self._failure(run), code="demo_failed")
        return run

    def _retry(self, call: Callable[[], Json]) -> Json:
        """Result of ``call``, repeated while the api is restarted.

        Raises: what ``check`` raises; ApiError of an api that responds.
        """
        while True:
            try:
                return call()
            except ApiError as error:
                if error.status not in UNAVAILABLE_STATUSES or error.code == "unsendable":
                    raise
            self.check()
            time.sleep(POLL_SECONDS)

    def _failure(self, run: Json) -> str:
        reason = (run.get("reason") or {}).get("message", "no reason was given")
        log = self.client.logs(run["id"])["text"].splitlines()[-LOG_TAIL_LINES:]
        tail = "".join(f"\n    {line}" for line in log)
        return f"{run['kind']} run {run['id']} {run['state']}: {reason}" + (f"; its log ends:{tail}" if tail else "")


PLAIN_SECONDS = 5.0
STATE_LABELS = {"queued": "waiting for the worker", "running": "starting"}
PROGRESS_COLUMNS = (
    ("step", "step {:,.0f}"),
    ("contrastive_loss", "contrastive {:.3f}"),
    ("generation_loss", "generation {:.3f}"),
    ("images_per_s", "{:,.0f} images/s"),
    ("held_out.retrieval_r5", "held-out recall at 5 {:.3f}"),
)


def format_progress(run: Json) -> str:
    """Step, both losses, images a second, recall on held-out images and time left, as far as known."""
    progress = run.get("progress") or {}
    if not progress:
        return STATE_LABELS.get(run["state"], str(run["state"]))
    total = progress.get("total_steps")
    parts = [shape.format(progress[name]) for name, shape in PROGRESS_COLUMNS if progress.get(name) is not None]
    if total and parts and progress.get("step") is not None:
        parts[0] += f" of {total:,.0f}"
    if progress.get("phase"):
        parts.insert(0, str(progress["phase"]))
    if progress.get("seconds_left") is not None and run["state"] == "running":
        parts.append(f"{format_minutes(progress['seconds_left'])} left")
    return " · ".join(parts)


def format_end(run: Json) -> str:
    """State of a finished run, its duration and its last progress."""
    parts = [str(run["state"])]
    if (started := run.get("started_at")) and (finished := run.get("finished_at")):
        took = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
        parts[0] += f" in {format_minutes(took.total_seconds())}"
    if run.get("progress"):
        parts.append(format_progress(run))
    return " · ".join(parts)


def format_minutes(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes}:{rest:02d}"


class PlainDisplay:
    """One line every few seconds, and one at the end of each run."""

    def __init__(self, console: Console, every: float = PLAIN_SECONDS) -> None:
        self.console = console
        self.every = every
        self._next = 0.0
        self._last = ""

    def update(self, run: Json) -> None:
        text = format_progress(run)
        if time.monotonic() >= self._next and text != self._last:
            self._next, self._last = time.monotonic() + self.every, text
            self._print(run, text)

    def finish(self, run: Json) -> None:
        self._next, self._last = 0.0, ""
        self._print(run, format_end(run))

    def _print(self, run: Json, text: str) -> None:
        self.console.print(f"{run['kind']:<9} {text}", highlight=False, markup=False, soft_wrap=True)


class LiveDisplay:
    """One bar for each run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._bars: dict[str, TaskID] = {}

    def update(self, run: Json) -> None:
        if run["id"] not in self._bars:
            self._bars[run["id"]] = self.progress.add_task(run["kind"], total=None, text="")
        done = run.get("progress") or {}
        self.progress.update(
            self._bars[run["id"]],
            completed=done.get("step", 0),
            total=done.get("total_steps"),
            text=format_progress(run),
        )

    def finish(self, run: Json) -> None:
        self.update(run)
        self.progress.update(self._bars[run["id"]], text=format_end(run))
        if run["state"] == "succeeded":
            self.progress.update(self._bars[run["id"]], completed=1, total=1)


@contextmanager
def open_display(console: Console) -> Iterator[ProgressDisplay]:
    """Live bars on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(24), TextColumn("{task.fields[text]}", markup=False))
    with Progress(*columns, console=console) as progress:
        yield LiveDisplay(progress)


REPORTED_METRICS = {
    ("retrieval", "IR@5"): "text → image, R@5",
    ("retrieval", "TR@5"): "image → text, R@5",
    ("classification", "acc@1"): "class, top-1",
    ("zero_shot_classification", "acc@1"): "named class, top-1",
    ("few_shot", "acc@1"): "few-shot, top-1",
}


def print_report(console: Console, result: DemoResult) -> None:
    console.print()
    console.print(result_table(result.evaluate["result"] or {}))
    for line in summary_lines(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def result_table(result: Json) -> Table:
    """Main metrics of an evaluate run's ``result``, one a line; a dash for what was not measured."""
    shown = [row for row in result["rows"] if (row["task"], row["metric"]) in REPORTED_METRICS]
    splits = ", ".join(dict.fromkeys(row["split"] for row in shown))
    title = f"The encoder on {splits}: drawings by artists it never saw"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("test", "with", "encoder", "chance", "untrained", "choices"):
        table.add_column(heading, justify="left" if heading in ("test", "with") else "right")
    for row in shown:
        values = (format_score(row[name]) for name in ("value", "chance", "untrained"))
        choices = "–" if row["candidates"] is None else f"{row['candidates']:,}"
        table.add_row(REPORTED_METRICS[row["task"], row["metric"]], _variant(row), *values, choices)
    return table


def _variant(row: Json) -> str:
    """The variant, and whether the encoder was fine-tuned."""
    return f"{row['variant']}, full" if row.get("transfer") == "full" else row["variant"]


def format_score(value: float | None) -> str:
    """Three decimals without the leading zero, as tables of the field have them."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def summary_lines(result: DemoResult) -> list[str]:
    """Training time and the sizes of its outputs."""
    encoder = (result.pretrain["result"] or {})["encoder"]
    collection = (result.index["result"] or {})["collection"]
    return [
        f"Training took {format_minutes(encoder['seconds'])} min ({encoder['seconds']:.0f} s): "
        f"{encoder['steps']:,} steps, {encoder['images_seen']:,} images, "
        f"{encoder['parameters'] / 1e6:.1f} M parameters.",
        f"Collection {collection['name']!r} holds {collection['images']:,} images and {collection['texts']:,} texts.",
    ]
