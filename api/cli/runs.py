"""``lcl submit`` and ``lcl runs …``."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from api.cli.common import ago, settings_of, show_json, show_table, spec_of
from api.cli.watch import FINAL, watch_run
from lcl_core.kinds import KINDS

group = typer.Typer(help="Look at runs and steer them.", no_args_is_help=True)
_KNOWN = ", ".join(KINDS)
RunId = Annotated[str, typer.Argument(help="id of the run")]
POLL_SECONDS = 1.0


def submit(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"one of {_KNOWN}")],
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
    settings = settings_of(context)
    with settings.client() as client:
        spec_given = spec_of(spec, preset, assignments)
        more: dict[str, Any] = {"priority": priority, "max_attempts": max_attempts, "resource": resource}
        run = client.submit(kind, spec_given, name, tag, after=after or (), **more)
        if watch:
            _follow(client, run["id"])
        elif settings.as_json:
            show_json(run)
        else:
            typer.echo(run["id"])


@group.command("list")
def list_(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help=f"one of {_KNOWN}")] = None,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before")] = None,
) -> None:
    """The newest runs."""
    settings = settings_of(context)
    with settings.client() as client:
        page = client.runs(kind=kind, state=state, limit=limit, cursor=cursor, tag=tag)
    if settings.as_json:
        show_json(page)
        return
    rows = [
        (run["id"], run["kind"], run["name"], run["state"], _progress(run), ago(run["created_at"]))
        for run in page["items"]
    ]
    show_table(("id", "kind", "name", "state", "progress", "submitted"), rows, "no runs yet; lcl submit makes one")
    if page["next_cursor"]:
        typer.echo(f"older ones: --cursor {page['next_cursor']}")


@group.command()
def show(context: typer.Context, run_id: RunId) -> None:
    """Everything that is known of a run, as JSON."""
    with settings_of(context).client() as client:
        show_json(client.run(run_id))


@group.command()
def watch(context: typer.Context, run_id: RunId) -> None:
    """Follow a run to its end: step, losses, images a second, time left. Exit status 1 unless it succeeded."""
    with settings_of(context).client() as client:
        _follow(client, run_id)


@group.command()
def logs(
    context: typer.Context,
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run has ended")] = False,
) -> None:
    """The log of a run."""
    with settings_of(context).client() as client:
        offset = 0
        while True:
            ended = client.run(run_id)["state"] in FINAL  # asked before the log, which is whole then
            piece = client.logs(run_id, offset)
            sys.stdout.write(piece["text"])
            sys.stdout.flush()
            moved, offset = piece["offset"] > offset, piece["offset"]
            if not moved and (ended or not follow):
                return
            if not moved:
                time.sleep(POLL_SECONDS)


def _verb(name: str, words: str) -> None:
    """Register ``lcl runs NAME ID``."""

    def command(context: typer.Context, run_id: RunId) -> None:
        settings = settings_of(context)
        with settings.client() as client:
            run = getattr(client, name)(run_id)
        if settings.as_json and run is not None:
            show_json(run)
        else:
            typer.echo(f"{run_id} is {run['state'] if run else 'deleted'}")

    command.__doc__ = words
    group.command(name)(command)


_verb("cancel", "Stop a run; one at work writes a checkpoint first.")
_verb("pause", "Hold a run back, its place kept; one at work writes a checkpoint first.")
_verb("unpause", "Let a paused run go on from its last checkpoint.")
_verb("resume", "Queue a failed or cancelled run again, to go on from its last checkpoint.")
_verb("retry", "Queue a failed or cancelled run again, from the beginning.")
_verb("delete", "Remove a finished run; the encoder or collection that it made stays.")


def _follow(client: Any, run_id: str) -> None:
    run = watch_run(client, run_id)
    if run["state"] != "succeeded":
        raise typer.Exit(1)


def _progress(run: dict[str, Any]) -> str:
    line = run["progress"] or {}
    if not line.get("total_steps"):
        return ""
    return f"{line.get('phase', '')} {line.get('step', 0)}/{line['total_steps']}".strip()
