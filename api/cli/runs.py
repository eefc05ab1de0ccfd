"""``lcl submit`` and ``lcl runs …``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import (
    MADE,
    Assignments,
    Cursor,
    Preset,
    Resource,
    SpecFile,
    Yes,
    ago,
    build_spec,
    duration,
    going_on_after_interrupt,
    options,
    print_error,
    print_json,
)
from api.client import ApiError, Client, UserError
from api.client.payloads import (
    FINAL_STATES,
    RUN_STATES,
    Json,
    format_bytes,
    format_si,
    readable_path,
    run_subject,
)
from lcl_core.common.errors import suggestion
from lcl_core.jobs import JOB_KINDS

group = typer.Typer(help="List, follow and control runs.", no_args_is_help=True)
KIND_LIST = ", ".join(JOB_KINDS)
RunId = Annotated[str, typer.Argument(help="id of the run, or its name")]
POLL_SECONDS = 1.0
METRIC_FORMATS = {
    "contrastive_loss": "contrastive {:.4f}",
    "generation_loss": "generation {:.4f}",
    "images_per_s": "{:.0f} images/s",
    "records_per_s": "{:.0f} records/s",
}
CERTAINTY_LABELS = {
    "measured": "measured on runs with this setup",
    "scaled": "from runs of other sizes",
    "assumed": "a guess: no run has measured a rate",
}


def submit(
    kind: Annotated[str, typer.Argument(help=f"one of {KIND_LIST}")],
    spec: SpecFile = None,
    preset: Preset = None,
    assignments: Assignments = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="name of the run; its encoder gets it too, with - for characters that names of encoders lack"
        ),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="repeatable")] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(help="id or name of a run whose success it waits for; repeatable"),
    ] = None,
    priority: Annotated[int, typer.Option(help="-100 to 100; higher goes first")] = 0,
    max_attempts: Annotated[int | None, typer.Option(help="workers that may be lost before it fails")] = None,
    resource: Resource = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs on each machine, as many as engine.processes")] = None,
    watch: Annotated[bool, typer.Option(help="follow the run to its end")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="queue nothing: expected time, memory and disk of a pretrain run")
    ] = False,
) -> None:
    """Queue a run.

    Example: lcl submit pretrain --preset sample --set steps=500 --watch
    """
    with options.client() as client:
        body = build_spec(spec, preset, assignments)
        if dry_run:
            _print_estimate(client.estimate(kind, body, resource))
            return
        more: Json = {"priority": priority, "max_attempts": max_attempts, "resource": resource, "gpus": gpus}
        run = client.submit(kind, body, name, tag, after=after or (), **more)
        if watch:
            _follow(client, run["id"])
        else:
            options.print(run, run["id"])


@group.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(help=f"one of {KIND_LIST}")] = None,
    state: Annotated[str | None, typer.Option(help=f"one of {', '.join(RUN_STATES)}")] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    name: Annotated[str | None, typer.Option(help="a part of the name, in any letter case")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Cursor = None,
) -> None:
    """The newest runs."""
    filters = {"kind": kind, "state": state, "tag": tag, "name": name}
    page = options.call(lambda client: client.runs(**filters, limit=limit, cursor=cursor))
    title = ("name", lambda run: run["name"] or run_subject(run))
    columns = ("id", "kind", title, "state", ("progress", _progress), MADE)
    options.print_items(page, columns, "no runs yet; lcl submit makes one")


@group.command()
def show(
    run_id: RunId,
    watch: Annotated[bool, typer.Option("--watch", help="follow it to its end; status 1 unless it succeeded")] = False,
) -> None:
    """The record of a run, as JSON; or its step, losses, images a second and time left until it ends."""
    with options.client() as client:
        if watch:
            _follow(client, run_id)
        else:
            print_json(client.run(run_id))


@group.command()
def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run has ended")] = False,
) -> None:
    """The log of a run."""
    with options.client() as client:
        offset, waiting = 0, False
        while True:
            ended = client.run(run_id)["state"] in FINAL_STATES  # before the log, which is then complete
            try:
                chunk = client.logs(run_id, offset)
            except ApiError as error:  # the log of a run on another machine comes when the run has ended
                if error.code != "files_elsewhere" or ended or not follow:
                    raise
                if not waiting:
                    typer.echo(error.message, err=True)
                waiting, chunk = True, {"text": "", "offset": offset}
            typer.echo(chunk["text"], nl=False)
            if chunk["offset"] > offset:
                offset = chunk["offset"]
            elif ended or not follow:
                return
            else:
                time.sleep(POLL_SECONDS)


@group.command()
def download(
    run_id: RunId,
    names: Annotated[list[str] | None, typer.Argument(help="artifacts, or folders of them; none: all")] = None,
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
    only_list: Annotated[bool, typer.Option("--list", help="list the artifacts and download nothing")] = False,
) -> None:
    """Download the files that a run made: tables, figures, its encoder or collection.

    Example: lcl runs download my-evaluation table.csv --out results
    """
    with options.client() as client:
        files = client.artifacts(run_id)
        if names:
            files = [file for name in names for file in _artifacts_named(files, name, run_id)]
        if only_list:
            size = ("size", lambda file: format_bytes(file["bytes"]))
            written = ("written", lambda file: ago(file["modified_at"]))
            options.print_items(files, ("name", size, written), "no artifacts")
            return
        paths = download_artifacts(client, run_id, files, out)
    if options.as_json:
        print_json([{"name": name, "file": readable_path(path)} for name, path in paths.items()])
    elif not files:
        typer.echo("no artifacts")


def download_artifacts(client: Client, run_id: str, artifacts: Sequence[Json], folder: Path) -> dict[str, Path]:
    """Write artifacts below a folder and print their paths. Raises: UserError."""
    paths = {artifact["name"]: folder / artifact["name"] for artifact in artifacts}
    for name, path in paths.items():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the service offers a file outside the folder: {name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_artifact(run_id, name, path)
        if not options.as_json:
            typer.echo(readable_path(path))
    return paths


def _artifacts_named(artifacts: Sequence[Json], name: str, run_id: str) -> list[Json]:
    """The artifact of that name, or those of a folder. Raises: UserError."""
    found = [file for file in artifacts if file["name"] == name or file["name"].startswith(f"{name.rstrip('/')}/")]
    if not found:
        near = suggestion(name, [file["name"] for file in artifacts])
        raise UserError(f"run {run_id} has no artifact {name!r}{near or '; --list has the names'}")
    return found


@group.command()
def annotate(
    run_id: RunId,
    tag: Annotated[list[str] | None, typer.Option(help="tag to add; repeatable")] = None,
    remove_tag: Annotated[list[str] | None, typer.Option(help="tag to take away; repeatable")] = None,
    notes: Annotated[str | None, typer.Option(help='new notes; "" removes them')] = None,
) -> None:
    """Change tags and notes of a run, and print those that it has then.

    Example: lcl runs annotate my-run --tag baseline --notes "diverged after step 4,000: halve the learning rate"
    """
    with options.client() as client:
        run = client.run(run_id)
        tags = set(run["tags"]).union(tag or ()).difference(remove_tag or ())
        if tags != set(run["tags"]) or notes is not None:
            run = client.annotate(run["id"], tags=sorted(tags), notes=notes)
    options.print(run, f"{' '.join(run['tags']) or 'no tags'}\n{run['notes'] or 'no notes'}")


@group.command()
def delete(run_id: RunId, yes: Yes = False) -> None:
    """Remove a finished run; the encoder or collection that it made stays."""
    with options.client() as client:
        run = client.run(run_id)
        question = f"delete {run['kind']} run {run['name'] or ''} ({run['id']}) of {run['owner']} and its files?"
        options.delete(client.delete, run["id"], question, yes, run_id)


@group.command()
def resume(
    run_id: RunId,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="new limit on the seconds of all attempts; 0: none")
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="begin again; checkpoints and metrics are deleted")
    ] = False,
) -> None:
    """Queue a paused, failed or cancelled run again, to go on from its last checkpoint."""
    if from_start and timeout is not None:
        raise UserError("--timeout is for a run that goes on; leave it or --from-start out")
    with options.client() as client:
        run = client.retry(run_id) if from_start else client.resume(run_id, timeout_seconds=timeout)
    options.print(run, f"{run_id} is {run['state']}")


@group.command()
def cancel(run_id: RunId) -> None:
    """Stop a run; one at work writes a checkpoint first."""
    run = options.call(lambda client: client.cancel(run_id))
    options.print(run, f"{run_id} is {run['state']}")


@group.command()
def pause(run_id: RunId) -> None:
    """Pause a run, its position in the queue kept; one at work writes a checkpoint first."""
    run = options.call(lambda client: client.pause(run_id))
    options.print(run, f"{run_id} is {run['state']}")


def watch_run(client: Client, run_id: str) -> Json:
    """Follow a run to its end and print the outcome, but nothing with --json. Returns: the run."""
    with going_on_after_interrupt(run_id, "runs"):
        for event in client.events(run_id):
            data = event["data"]
            if options.as_json:
                continue
            if event["event"] != "state":
                step = f"step {data.get('step', 0)}/{data.get('total_steps', '?')}"
                typer.echo(f"{step}  {format_metrics(data)}".rstrip())
            elif data["state"] not in FINAL_STATES:  # the outcome is printed below
                typer.echo(f"{run_id} {_describe_state(client, run_id, data['state'])}")
    run = client.run(run_id)
    if options.as_json:
        return run
    if run["state"] == "failed":
        print_error(f"{run_id} failed: {(run['reason'] or {}).get('message', 'no reason was given')}")
    else:
        output = run.get("encoder_id") if run["kind"] == "pretrain" else run.get("collection_id")
        typer.echo(f"{run_id} {run['state']}" + (f": {output}" if output and run["state"] == "succeeded" else ""))
    return run


def format_metrics(line: Json) -> str:
    """The main values of a metric line."""
    parts = [line.get("phase") or ""]
    for name, form in METRIC_FORMATS.items():
        if isinstance(line.get(name), int | float):
            parts.append(form.format(line[name]))
    if isinstance(line.get("seconds_left"), int | float):
        parts.append(f"{duration(line['seconds_left'])} left")
    return "  ".join(filter(None, parts))


def _follow(client: Client, run_id: str) -> None:
    """With --json the run is printed once, at its end."""
    run = watch_run(client, run_id)
    if options.as_json:
        print_json(run)
    if run["state"] != "succeeded":
        raise typer.Exit(1)


def _describe_state(client: Client, run_id: str, state: str) -> str:
    """The state; while a run is queued, also what it waits for."""
    if state != "queued" or (run := client.run(run_id))["state"] != "queued":
        return state
    obstacle = run["obstacle"] or {"message": "it starts with the next free slot of a worker"}
    return f"queued: {obstacle['message']}"


def _progress(run: Json) -> str:
    line = run["progress"] or {}
    if not line.get("total_steps"):
        return ""
    return f"{line.get('phase', '')} {line.get('step', 0)}/{line['total_steps']}".strip()


def _print_estimate(expected: Json) -> None:
    def spread(bounds: Json, text: Callable[[float], str]) -> str:
        return f"{text(bounds['expected'])} ({text(bounds['low'])} to {text(bounds['high'])})"

    samples, step, seconds = expected["samples"], expected["per_step"], expected["seconds"]
    checkpoint = format_bytes(expected["checkpoint_bytes"])
    rows = [
        ("time", f"{spread(seconds, duration)}, {CERTAINTY_LABELS[expected['certainty']]}"),
        (f"peak memory ({expected['device']}, a process)", spread(expected["memory_bytes"], format_bytes)),
        ("parameters", f"{expected['parameters']:,}"),
        ("useful operations", f"{format_si(expected['flops'])}FLOP ({format_si(expected['flops_per_step'])} a step)"),
        *((name, f"{samples[name]:,.0f} ({step[name]:,.0f} a step)") for name in ("images", "documents", "tokens")),
        ("disk", f"{format_bytes(expected['disk_bytes'])} ({checkpoint} a checkpoint)"),
    ]
    options.print_table(expected, ("what", "how much"), rows, "")
    if not options.as_json:
        for sentence in expected["basis"]:
            typer.echo(sentence)
