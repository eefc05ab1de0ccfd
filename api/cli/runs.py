"""``lcl submit``, ``lcl estimate`` and ``lcl runs …``."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from api.cli.output import ago, build_spec, duration, global_options, print_error, print_json, print_table
from api.client import Client
from lcl_core.jobs import JOB_KINDS

FINAL_STATES = ("succeeded", "failed", "cancelled")
Json = dict[str, Any]


def watch_run(client: Client, run_id: str) -> Json:
    """Show the run to its end and how it ended. Returns the run. Ctrl-C leaves the run alone."""
    show = _follow_with_bar if sys.stdout.isatty() else _follow_with_lines
    try:
        show(client, run_id)
    except KeyboardInterrupt:
        typer.echo(f"\n{run_id} goes on; lcl runs watch {run_id} looks again, lcl runs cancel {run_id} stops it")
        raise typer.Exit(130) from None
    run = client.run(run_id)
    _print_outcome(run)
    return run


def format_metrics(line: Json) -> str:
    """One metric line for people; what it lacks is left out."""
    parts = [
        str(line["phase"]) if line.get("phase") else "",
        f"contrastive {line['contrastive_loss']:.4f}" if _is_number(line, "contrastive_loss") else "",
        f"generation {line['generation_loss']:.4f}" if _is_number(line, "generation_loss") else "",
        f"{line['images_per_s']:.0f} images/s" if _is_number(line, "images_per_s") else "",
        f"{line['records_per_s']:.0f} records/s" if _is_number(line, "records_per_s") else "",
        f"{duration(line['seconds_left'])} left" if _is_number(line, "seconds_left") else "",
    ]
    return "  ".join(part for part in parts if part)


def _follow_with_bar(client: Client, run_id: str) -> None:
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
                progress.update(task, total=total, completed=data.get("step", 0), facts=format_metrics(data))


def _follow_with_lines(client: Client, run_id: str) -> None:
    for event in client.events(run_id):
        data = event["data"]
        if event["event"] != "state":
            typer.echo(f"step {data.get('step', 0)}/{data.get('total_steps', '?')}  {format_metrics(data)}".rstrip())
        elif data["state"] not in FINAL_STATES:  # how it ended is told once, at the end
            typer.echo(f"{run_id} {data['state']}")


def _print_outcome(run: Json) -> None:
    if run["state"] == "failed":
        reason = run["reason"] or {}
        print_error(f"{run['id']} failed: {reason.get('message', 'no reason was given')}")
    else:
        made = run.get("encoder_id") if run["kind"] == "pretrain" else run.get("collection_id")
        typer.echo(f"{run['id']} {run['state']}" + (f": {made}" if made and run["state"] == "succeeded" else ""))


def _is_number(line: Json, name: str) -> bool:
    return isinstance(line.get(name), int | float)


CERTAINTY_LABELS = {
    "measured": "as runs of this very setup went",
    "scaled": "from runs of other sizes",
    "assumed": "a guess: no run has told a rate",
}
_SI_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def estimate(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="pretrain: other kinds are not estimated")] = "pretrain",
    spec: Annotated[str | None, typer.Option(help="JSON file with the spec; - reads standard input")] = None,
    preset: Annotated[str | None, typer.Option(help="named starting point")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="field.name=value, over spec and preset; repeatable")
    ] = None,
    resource: Annotated[str | None, typer.Option(help="cpu or gpu, which a worker must offer")] = None,
) -> None:
    """What a run would take: time, memory, operations, disk. Nothing is queued.

    Example: lcl estimate pretrain --preset sample --set steps=5000
    """
    settings = global_options(context)
    with settings.client() as client:
        found = client.estimate(kind, build_spec(spec, preset, assignments), resource)
    if settings.as_json:
        print_json(found)
        return
    print_table(("what", "how much"), _estimate_rows(found), "")
    for sentence in found["basis"]:
        typer.echo(sentence)


def _estimate_rows(found: Json) -> list[tuple[str, str]]:
    seconds, memory, samples, step = (found[name] for name in ("seconds", "memory_bytes", "samples", "per_step"))
    return [
        (
            "time",
            f"{duration(seconds['expected'])} ({_range(seconds, duration)}), {CERTAINTY_LABELS[found['certainty']]}",
        ),
        (
            f"peak memory ({found['device']}, a process)",
            f"{format_bytes(memory['expected'])} ({_range(memory, format_bytes)})",
        ),
        ("parameters", f"{found['parameters']:,}"),
        ("useful operations", f"{format_si(found['flops'])}FLOP ({format_si(found['flops_per_step'])} a step)"),
        ("pictures", f"{samples['images']:,.0f} ({step['images']:,.0f} a step)"),
        ("documents", f"{samples['documents']:,.0f} ({step['documents']:,.0f} a step)"),
        ("tokens", f"{samples['tokens']:,.0f} ({step['tokens']:,.0f} a step)"),
        ("disk", f"{format_bytes(found['disk_bytes'])} ({format_bytes(found['checkpoint_bytes'])} a checkpoint)"),
    ]


def _range(found: Json, words: Any) -> str:
    return f"{words(found['low'])} to {words(found['high'])}"


def format_bytes(count: float) -> str:
    """Bytes: ``1.5 GiB``, ``73.4 MiB``."""
    unit, word = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:,.3g} {word}" if count < 1000 * unit else f"{count / unit:,.0f} {word}"


def format_si(value: float) -> str:
    """``6411265`` -> ``6.41 M``."""
    for size, unit in _SI_UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "


group = typer.Typer(help="Look at runs and steer them.", no_args_is_help=True)
_KIND_LIST = ", ".join(JOB_KINDS)
RunId = Annotated[str, typer.Argument(help="id of the run")]
POLL_SECONDS = 1.0


def submit(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"one of {_KIND_LIST}")],
    spec: Annotated[str | None, typer.Option(help="JSON file with the spec; - reads standard input")] = None,
    preset: Annotated[str | None, typer.Option(help="named starting point")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="field.name=value, over spec and preset; repeatable")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the run and of the encoder it makes")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="repeatable")] = None,
    after: Annotated[list[str] | None, typer.Option(help="id of a run whose success it waits for; repeatable")] = None,
    priority: Annotated[int, typer.Option(help="-100 to 100; higher goes first")] = 0,
    max_attempts: Annotated[int | None, typer.Option(help="workers that may be lost before it fails")] = None,
    resource: Annotated[str | None, typer.Option(help="cpu or gpu, which a worker must offer")] = None,
    watch: Annotated[bool, typer.Option(help="follow the run to its end")] = False,
) -> None:
    """Queue a run.

    Example: lcl submit pretrain --preset sample --set steps=500 --watch
    """
    settings = global_options(context)
    with settings.client() as client:
        spec_given = build_spec(spec, preset, assignments)
        more: dict[str, Any] = {"priority": priority, "max_attempts": max_attempts, "resource": resource}
        run = client.submit(kind, spec_given, name, tag, after=after or (), **more)
        if watch:
            _follow(client, run["id"])
        elif settings.as_json:
            print_json(run)
        else:
            typer.echo(run["id"])


@group.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help=f"one of {_KIND_LIST}")] = None,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before")] = None,
) -> None:
    """The newest runs."""
    settings = global_options(context)
    with settings.client() as client:
        page = client.runs(kind=kind, state=state, limit=limit, cursor=cursor, tag=tag)
    if settings.as_json:
        print_json(page)
        return
    rows = [
        (run["id"], run["kind"], run["name"], run["state"], _progress(run), ago(run["created_at"]))
        for run in page["items"]
    ]
    print_table(("id", "kind", "name", "state", "progress", "submitted"), rows, "no runs yet; lcl submit makes one")
    if page["next_cursor"]:
        typer.echo(f"older ones: --cursor {page['next_cursor']}")


@group.command()
def show(context: typer.Context, run_id: RunId) -> None:
    """Everything that is known of a run, as JSON."""
    with global_options(context).client() as client:
        print_json(client.run(run_id))


@group.command()
def watch(context: typer.Context, run_id: RunId) -> None:
    """Follow a run to its end: step, losses, images a second, time left. Exit status 1 unless it succeeded."""
    with global_options(context).client() as client:
        _follow(client, run_id)


@group.command()
def logs(
    context: typer.Context,
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run has ended")] = False,
) -> None:
    """The log of a run."""
    with global_options(context).client() as client:
        offset = 0
        while True:
            ended = client.run(run_id)["state"] in FINAL_STATES  # asked before the log, which is whole then
            piece = client.logs(run_id, offset)
            sys.stdout.write(piece["text"])
            sys.stdout.flush()
            moved, offset = piece["offset"] > offset, piece["offset"]
            if not moved and (ended or not follow):
                return
            if not moved:
                time.sleep(POLL_SECONDS)


def _add_verb(name: str, words: str) -> None:
    """Register ``lcl runs NAME ID``."""

    def command(context: typer.Context, run_id: RunId) -> None:
        settings = global_options(context)
        with settings.client() as client:
            run = getattr(client, name)(run_id)
        if settings.as_json and run is not None:
            print_json(run)
        else:
            typer.echo(f"{run_id} is {run['state'] if run else 'deleted'}")

    command.__doc__ = words
    group.command(name)(command)


_add_verb("cancel", "Stop a run; one at work writes a checkpoint first.")
_add_verb("pause", "Hold a run back, its place kept; one at work writes a checkpoint first.")
_add_verb("unpause", "Let a paused run go on from its last checkpoint.")
_add_verb("resume", "Queue a failed or cancelled run again, to go on from its last checkpoint.")
_add_verb("retry", "Queue a failed or cancelled run again, from the beginning.")
_add_verb("delete", "Remove a finished run; the encoder or collection that it made stays.")


def _follow(client: Any, run_id: str) -> None:
    run = watch_run(client, run_id)
    if run["state"] != "succeeded":
        raise typer.Exit(1)


def _progress(run: dict[str, Any]) -> str:
    line = run["progress"] or {}
    if not line.get("total_steps"):
        return ""
    return f"{line.get('phase', '')} {line.get('step', 0)}/{line['total_steps']}".strip()
