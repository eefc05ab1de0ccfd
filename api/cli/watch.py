"""A run on the terminal while it happens: a bar on a screen, plain lines in a pipe."""

from __future__ import annotations

import sys
from typing import Any

import typer

from api.cli.common import complain, duration
from api.client import Client

FINAL = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]


def watch_run(client: Client, run_id: str) -> Json:
    """Show the run to its end and how it ended. Returns the run. Ctrl-C leaves the run alone."""
    show = _bar if sys.stdout.isatty() else _lines
    try:
        show(client, run_id)
    except KeyboardInterrupt:
        typer.echo(f"\n{run_id} goes on; lcl runs watch {run_id} looks again, lcl runs cancel {run_id} stops it")
        raise typer.Exit(130) from None
    run = client.run(run_id)
    _tell_end(run)
    return run


def describe(line: Json) -> str:
    """One metric line for people; what it lacks is left out."""
    parts = [
        str(line["phase"]) if line.get("phase") else "",
        f"contrastive {line['contrastive_loss']:.4f}" if _has(line, "contrastive_loss") else "",
        f"generation {line['generation_loss']:.4f}" if _has(line, "generation_loss") else "",
        f"{line['images_per_s']:.0f} images/s" if _has(line, "images_per_s") else "",
        f"{line['records_per_s']:.0f} records/s" if _has(line, "records_per_s") else "",
        f"{duration(line['seconds_left'])} left" if _has(line, "seconds_left") else "",
    ]
    return "  ".join(part for part in parts if part)


def _bar(client: Client, run_id: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns) as progress:
        task = progress.add_task("queued", total=None, facts="")
        for event in client.events(run_id):
            data = event["data"]
            if event["event"] == "state":
                progress.update(task, description=data["state"])
            else:
                total = data.get("total_steps")
                progress.update(task, total=total, completed=data.get("step", 0), facts=describe(data))


def _lines(client: Client, run_id: str) -> None:
    for event in client.events(run_id):
        data = event["data"]
        if event["event"] != "state":
            typer.echo(f"step {data.get('step', 0)}/{data.get('total_steps', '?')}  {describe(data)}".rstrip())
        elif data["state"] not in FINAL:  # how it ended is told once, at the end
            typer.echo(f"{run_id} {data['state']}")


def _tell_end(run: Json) -> None:
    if run["state"] == "failed":
        reason = run["reason"] or {}
        complain(f"{run['id']} failed: {reason.get('message', 'no reason was given')}")
    else:
        made = run.get("encoder_id") if run["kind"] == "pretrain" else run.get("collection_id")
        typer.echo(f"{run['id']} {run['state']}" + (f": {made}" if made and run["state"] == "succeeded" else ""))


def _has(line: Json, name: str) -> bool:
    return isinstance(line.get(name), int | float)
