"""Demonstration: pre-train, evaluate and index on the sample corpus over REST, with progress and a result table."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from api.client import Client
from api.client.payloads import FINAL_STATES
from lcl_core.common.errors import UserError

Json = dict[str, Any]
POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # between lines of progress
LOG_TAIL_LINES = 15


def run_demo(client: Client, console: Console, check: Callable[[], None]) -> dict[str, Json]:
    """Three runs, one after the other. Returns: {kind: run}.

    Args:
        check: called at every poll; raises when a part of the service has died.

    Raises:
        UserError: ``demo_failed`` with the run's reason, when one did not succeed.
    """
    pretrain = follow_run(client, console, check, "pretrain", {"preset": "sample_resnet"})
    encoder = pretrain["encoder_id"]
    # full transfer, which is in the preset too, would take as long as the training
    evaluation = {"preset": "sample", "encoder": encoder, "classification": {"transfer": ["frozen"]}}
    evaluate = follow_run(client, console, check, "evaluate", evaluation)
    index = follow_run(client, console, check, "index", {"encoder": encoder, "collection": "sample"})
    return {"pretrain": pretrain, "evaluate": evaluate, "index": index}


def follow_run(client: Client, console: Console, check: Callable[[], None], kind: str, spec: Json) -> Json:
    """Submit a run and print a line of progress every few seconds until its end. Returns: the run."""

    def print_line(text: str) -> None:
        console.print(f"{kind:<9} {text}", highlight=False, markup=False, soft_wrap=True)

    run = client.submit(kind, spec, f"demo-{kind}", ["demo"])
    last, next_line = "", 0.0
    while run["state"] not in FINAL_STATES:
        check()
        text = format_progress(run)
        if time.monotonic() >= next_line and text != last:
            last, next_line = text, time.monotonic() + LINE_SECONDS
            print_line(text)
        time.sleep(POLL_SECONDS)
        run = client.run(run["id"])
    print_line(format_end(run))
    if run["state"] != "succeeded":
        reason = (run.get("reason") or {}).get("message", "no reason was given")
        log = client.logs(run["id"])["text"].splitlines()[-LOG_TAIL_LINES:]
        tail = "".join(f"\n    {line}" for line in log)
        message = f"{kind} run {run['id']} {run['state']}: {reason}" + (f"; its log ends:{tail}" if tail else "")
        raise UserError(message, code="process_died")
    return run


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


REPORTED_METRICS = {
    ("retrieval", "IR@5"): "text → image, R@5",
    ("retrieval", "TR@5"): "image → text, R@5",
    ("classification", "acc@1"): "class, top-1",
    ("zero_shot_classification", "acc@1"): "named class, top-1",
}


def print_report(console: Console, runs: dict[str, Json]) -> None:
    """The table of results, training time, and the sizes of what was made."""
    encoder, collection = runs["pretrain"]["result"]["encoder"], runs["index"]["result"]["collection"]
    console.print()
    console.print(result_table(runs["evaluate"]["result"]))
    for line in (
        f"Training took {format_minutes(encoder['seconds'])} min ({encoder['seconds']:.0f} s): "
        f"{encoder['steps']:,} steps, {encoder['images_seen']:,} images, "
        f"{encoder['parameters'] / 1e6:.1f} M parameters.",
        f"Collection {collection['name']!r} holds {collection['images']:,} images and {collection['texts']:,} texts.",
    ):
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
        variant = f"{row['variant']}, full" if row.get("transfer") == "full" else row["variant"]
        table.add_row(REPORTED_METRICS[row["task"], row["metric"]], variant, *values, choices)
    return table


def format_score(value: float | None) -> str:
    """Three decimals without the leading zero, as tables of the field have them."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")
