"""``lcl study …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import (
    MADE,
    Cursor,
    SpecFile,
    Yes,
    build_spec,
    going_on_after_interrupt,
    options,
    print_error,
    print_json,
    print_table,
)
from api.client import Client, UserError
from api.client.payloads import FINAL_STATES, Json

group = typer.Typer(help="Fill a table: a set of runs, compared.", no_args_is_help=True)
StudyId = Annotated[str, typer.Argument(help="id or name of the study")]


@group.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Cursor = None,
) -> None:
    """The newest studies."""
    page = options.call(lambda client: client.studies(limit=limit, cursor=cursor))
    columns = ("id", "name", "state", ("cells", state_counts), MADE)
    options.print_items(page, columns, "no studies yet; lcl study run makes one")


@group.command()
def show(
    study_id: StudyId,
    watch: Annotated[bool, typer.Option("--watch", help="follow it to its end; status 1 unless it succeeded")] = False,
    kind: Annotated[str | None, typer.Option("--format", help="the table alone, as csv or json")] = None,
    out: Annotated[Path | None, typer.Option(help="file for that table; default standard output")] = None,
) -> None:
    """The table of a study: each row with the states of its cells, and its metrics so far.

    Example: lcl study show ID --format csv --out table.csv
    """
    if out is not None and kind is None:
        raise UserError("--out: say the --format, too: csv or json")
    with options.client() as client:
        if kind is not None:
            text = client.study_table(study_id, kind)
            if out is None:
                typer.echo(text, nl=False)
            else:
                out.write_text(text, "utf-8")
                options.print_file(out)
        elif watch:
            _follow(client, study_id)
        else:
            study = client.study(study_id)
            options.print(study, f"{study['id']}  {study['name'] or ''}  {study['state']}  {state_counts(study)}")
            if not options.as_json:
                if study["question"]:
                    typer.echo(study["question"])
                print_rows(study)


@group.command()
def run(
    preset: Annotated[str | None, typer.Argument(help="a built-in study, such as table1")] = None,
    spec: SpecFile = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="instead of the spec's seeds; repeatable")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="field.name=value, such as pretrain.steps=100; repeatable")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the study, and of its runs and encoders")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count the runs")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="follow it to its end")] = False,
) -> None:
    """Queue a study. Existing runs of the same specs are reused.

    Example: lcl study run loss_ablation --seed 0 --set pretrain.steps=200 --watch
    """
    if preset is None and spec is None:
        raise UserError("name a built-in study, or give --spec FILE")
    body = build_spec(spec, preset, assignments) | ({"seeds": seed} if seed else {})
    with options.client() as client:
        plan = client.plan_study(body)
        if dry_run:
            options.print(plan, _plan_summary(plan))
            return
        study = client.submit_study(body, name or preset)
        if not options.as_json:
            typer.echo(_plan_summary(plan), err=True)
        if follow:
            _follow(client, study["id"])
        else:
            options.print(study, study["id"])


@group.command()
def extend(
    study_id: StudyId,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="another seed; repeatable")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help='AXIS:NAME={"field": value}: another variant; repeatable')
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="total number of trials of a random search")] = None,
) -> None:
    """Add seeds, variants or trials; existing cells are not run again.

    Example: lcl study extend ID --seed 3 --variant 'lambda:2={"objective.contrastive_weight": 2}'
    """
    if not (seed or variant or trials):
        raise UserError("say what to add: --seed, --variant or --trials")
    axes: dict[str, list[Json]] = {}
    for text in variant or []:
        axis, value = _parse_variant(text)
        axes.setdefault(axis, []).append(value)
    added = [{"name": axis, "variants": values} for axis, values in axes.items()]
    addition = {"seeds": seed or [], "axes": added, "trials": trials}
    _print_state(study_id, options.call(lambda client: client.extend_study(study_id, **addition)))


@group.command()
def cancel(study_id: StudyId) -> None:
    """Stop a study: its unfinished runs are cancelled, except those that another study uses."""
    _print_state(study_id, options.call(lambda client: client.cancel_study(study_id)))


@group.command()
def resume(study_id: StudyId) -> None:
    """Resume failed and cancelled runs, each from its last checkpoint."""
    study = options.call(lambda client: client.resume_study(study_id))
    refused = "".join(f"\nnot resumed: {run['message']}" for run in study["not_resumed"])
    _print_state(study_id, study, refused)


@group.command()
def delete(study_id: StudyId, yes: Yes = False) -> None:
    """Remove an ended study; its runs and encoders stay."""
    with options.client() as client:
        study = client.study(study_id)
        question = f"delete study {study['name'] or ''} ({study['id']}) of {study['owner']}?"
        options.delete(client.delete_study, study["id"], question, yes, study_id)


def _print_state(study_id: str, study: Json, more: str = "") -> None:
    options.print(study, f"{study_id} is {study['state']}, {state_counts(study)}{more}")


def _parse_variant(option: str) -> tuple[str, Json]:
    where, equals, text = option.partition("=")
    axis, colon, name = where.partition(":")
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not (equals and colon and isinstance(fields, dict)):
        raise UserError(f'--variant {option!r}: write it as AXIS:NAME={{"field": value}}')
    return axis, {"name": name, "spec": fields}


def _plan_summary(plan: Json) -> str:
    summary = (
        f"rows: {plan['rows']}, seeds: {plan['seeds']}, pre-trainings to run: {plan['cells'] - plan['reused']}, "
        f"encoders to evaluate: {plan['cells']}"
    )
    if plan["reused"]:
        summary += f"; {plan['reused']} of the pre-trainings are there already"
    if seconds := plan.get("seconds"):
        expected, low, high = (seconds[bound] / 3600 for bound in ("expected", "low", "high"))
        summary += f"\nhours of pre-training in one slot: {expected:.2g} ({low:.2g} to {high:.2g}, {plan['certainty']})"
    return summary


def _follow(client: Client, study_id: str) -> None:
    """With --json the study is printed once, at its end."""

    def on_change(now: Json) -> None:
        if not options.as_json:
            typer.echo(f"{study_id} {now['state']}, {state_counts(now)}")

    with going_on_after_interrupt(study_id, "study"):
        study = client.wait_for_study(study_id, on_change)
    if options.as_json:
        print_json(study)
    else:
        print_rows(study)
    if study["state"] != FINAL_STATES[0]:
        raise typer.Exit(1)


def state_counts(study: Json) -> str:
    """``5 succeeded, 1 running``."""
    return ", ".join(f"{count} {state}" for state, count in study["counts"].items()) or "no cells"


def print_rows(study: Json) -> None:
    """Labels, sampled settings, states of the cells, and each metric as mean ± deviation; then what failed."""
    table = study["table"]
    metrics = [metric["name"] for metric in table["metrics"]]
    rows = []
    for row in table["rows"]:
        labels = [row["labels"].get(axis) for axis in table["axes"]]
        sampled = [row["parameters"].get(name) for name in table["parameters"]]
        states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
        rows.append([*labels, *sampled, states, *(_format_figure(row["figures"].get(metric)) for metric in metrics)])
    print_table([*table["axes"], *table["parameters"], "cells", *metrics], rows, "no rows")
    for cell in study["cells"]:
        for run in filter(None, (cell["run"], cell["evaluation"])):
            if run["state"] == "failed":
                print_error(f"{run['id']} failed: {(run['reason'] or {}).get('message', 'no reason was given')}")
    for note in study["notes"]:
        typer.echo(note)


def _format_figure(figure: Json | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.3g}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.3g}")
