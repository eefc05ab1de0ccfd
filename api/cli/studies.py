"""``lcl study …``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import (
    CommandError,
    ago,
    global_options,
    print_error,
    print_json,
    print_table,
    read_json,
    set_fields,
)
from api.client import Client
from api.client._sync.runs import STUDY_FINAL_STATES

Json = dict[str, Any]


def state_counts(study: Json) -> str:
    """``5 succeeded, 1 running``."""
    return ", ".join(f"{count} {state}" for state, count in study["counts"].items()) or "no cells"


def print_rows(study: Json) -> None:
    """The table: labels, drawn settings, the states of the cells, and each figure as mean ± deviation."""
    table = study["table"]
    rungs = any(row["rung"] is not None for row in table["rows"])
    heads = [metric["name"] for metric in table["metrics"]]
    columns = [*table["axes"], *table["parameters"], *(["rung"] if rungs else []), "cells", *heads]
    print_table(columns, [_table_row(table, row, heads, rungs) for row in table["rows"]], "no rows")


def _table_row(table: Json, row: Json, heads: list[str], rungs: bool) -> list[object]:
    labels = [row["labels"].get(axis) for axis in table["axes"]]
    drawn = [row["parameters"].get(name) for name in table["parameters"]]
    states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
    return [*labels, *drawn, *([row["rung"]] if rungs else []), states, *(_figure_cell(row, head) for head in heads)]


def _figure_cell(row: Json, head: str) -> str:
    found = row["figures"].get(head)
    if found is None:
        return ""
    spread = "" if found["sd"] is None else f" ± {found['sd']:.3g}"
    return f"{found['mean']:.3g}{spread}"


group = typer.Typer(help="Fill a table: a set of runs, compared.", no_args_is_help=True)
StudyId = Annotated[str, typer.Argument(help="id of the study")]


@group.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before")] = None,
) -> None:
    """The newest studies."""
    settings = global_options(context)
    with settings.client() as client:
        page = client.studies(limit=limit, cursor=cursor)
    if settings.as_json:
        print_json(page)
        return
    rows = [
        (item["id"], item["name"], item["state"], state_counts(item), ago(item["created_at"])) for item in page["items"]
    ]
    print_table(("id", "name", "state", "cells", "submitted"), rows, "no studies yet; lcl study run makes one")
    if page["next_cursor"]:
        typer.echo(f"older ones: --cursor {page['next_cursor']}")


@group.command()
def show(context: typer.Context, study_id: StudyId) -> None:
    """How a study stands: each row with the states of its cells, and its figures so far."""
    settings = global_options(context)
    with settings.client() as client:
        study = client.study(study_id)
    if settings.as_json:
        print_json(study)
        return
    typer.echo(f"{study['id']}  {study['name'] or ''}  {study['state']}  {state_counts(study)}")
    if study["question"]:
        typer.echo(study["question"])
    print_rows(study)
    _print_failures(study)


@group.command()
def run(
    context: typer.Context,
    preset: Annotated[str | None, typer.Argument(help="a built-in study, such as table1")] = None,
    spec: Annotated[str | None, typer.Option(help="JSON file with the spec; - reads standard input")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="instead of the spec's seeds; repeatable")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="field.name=value, such as pretrain.steps=100; repeatable")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the study, and of its runs and encoders")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="only say what it would come to")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="follow it to its end")] = False,
) -> None:
    """Queue a study. Runs of the same specs that are there already are taken over.

    Example: lcl study run loss_ablation --seed 0 --set pretrain.steps=200 --watch
    """
    settings = global_options(context)
    body = _build_spec(preset, spec, seed, assignments or [])
    with settings.client() as client:
        plan = client.plan_study(body)
        if dry:
            print_json(plan) if settings.as_json else typer.echo(_plan_summary(plan))
            return
        study = client.submit_study(body, name or preset)
        if not settings.as_json:
            typer.echo(_plan_summary(plan), err=True)
        if follow:
            _follow(client, study["id"])
        elif settings.as_json:
            print_json(study)
        else:
            typer.echo(study["id"])


@group.command()
def watch(context: typer.Context, study_id: StudyId) -> None:
    """Follow a study to its end, then show its table. Exit status 1 unless it succeeded."""
    with global_options(context).client() as client:
        _follow(client, study_id)


@group.command()
def table(
    context: typer.Context,
    study_id: StudyId,
    kind: Annotated[str, typer.Option("--format", help="md, csv or json")] = "md",
    out: Annotated[Path | None, typer.Option(help="file; default standard output")] = None,
) -> None:
    """The table as it stands."""
    settings = global_options(context)
    with settings.client() as client:
        text = client.study_table(study_id, "json" if settings.as_json else kind)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write_file(out, text.encode())


@group.command()
def plot(
    context: typer.Context,
    study_id: StudyId,
    name: Annotated[str, typer.Argument(help="rows, pareto, scaling or curves")],
    out: Annotated[Path, typer.Argument(help="file that ends in .svg or .png")],
    metric: Annotated[str | None, typer.Option(help="head of a column of the table")] = None,
    value: Annotated[str | None, typer.Option(help="of curves: loss, generation_loss, …")] = None,
) -> None:
    """Draw a study."""
    with global_options(context).client() as client:
        picture = client.study_plot(study_id, name, out.suffix.lstrip("."), metric=metric, value=value)
    _write_file(out, picture)


@group.command()
def extend(
    context: typer.Context,
    study_id: StudyId,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="a seed more; repeatable")] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help='AXIS:NAME={"field": value}: a variant more; repeatable')
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="so many settings of a random search in all")] = None,
) -> None:
    """Add seeds, variants or trials; what the study has is not run again.

    Example: lcl study extend ID --seed 3 --variant 'lambda:2={"objective.contrastive_weight": 2}'
    """
    if not (seed or variant or trials):
        raise CommandError("say what to add: --seed, --variant or --trials")
    axes: dict[str, list[Json]] = {}
    for given in variant or []:
        axis, added = _parse_variant(given)
        axes.setdefault(axis, []).append(added)
    named = [{"name": axis, "variants": added} for axis, added in axes.items()]
    _verb(context, study_id, "extend_study", seeds=seed or [], axes=named, trials=trials)


@group.command()
def cancel(context: typer.Context, study_id: StudyId) -> None:
    """Stop a study: its unfinished runs are cancelled, but for those that another study waits for."""
    _verb(context, study_id, "cancel_study")


@group.command()
def resume(context: typer.Context, study_id: StudyId) -> None:
    """Take up again what failed or was cancelled, each run from its last checkpoint."""
    _verb(context, study_id, "resume_study")


@group.command()
def delete(context: typer.Context, study_id: StudyId) -> None:
    """Remove an ended study; its runs and encoders stay."""
    with global_options(context).client() as client:
        client.delete_study(study_id)
    typer.echo(f"{study_id} is deleted")


def _verb(context: typer.Context, study_id: str, name: str, **arguments: Any) -> None:
    settings = global_options(context)
    with settings.client() as client:
        study = getattr(client, name)(study_id, **arguments)
    if settings.as_json:
        print_json(study)
    else:
        typer.echo(f"{study_id} is {study['state']}, {state_counts(study)}")


def _build_spec(preset: str | None, spec: str | None, seeds: list[int] | None, assignments: list[str]) -> Json:
    if preset is None and spec is None:
        raise CommandError("name a built-in study, or give --spec FILE")
    body: Json = read_json(spec) if spec else {}
    if preset is not None:
        body["preset"] = preset
    if seeds:
        body["seeds"] = seeds
    return set_fields(body, assignments)


def _parse_variant(given: str) -> tuple[str, Json]:
    where, equals, text = given.partition("=")
    axis, colon, name = where.partition(":")
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not (equals and colon and isinstance(fields, dict)):
        raise CommandError(f'--variant {given!r}: write it as AXIS:NAME={{"field": value}}')
    return axis, {"name": name, "spec": fields}


def _plan_summary(plan: Json) -> str:
    new = plan["cells"] - plan["reused"]
    taken = f"; {plan['reused']} of the pre-trainings are there already" if plan["reused"] else ""
    return (
        f"rows: {plan['rows']}, seeds: {plan['seeds']}, pre-trainings to run: {new}, "
        f"encoders to evaluate: {plan['cells']}{taken}"
    )


def _follow(client: Client, study_id: str) -> None:
    """Ctrl-C leaves the study alone."""
    try:
        study = client.wait_for_study(
            study_id, lambda now: typer.echo(f"{study_id} {now['state']}, {state_counts(now)}")
        )
    except KeyboardInterrupt:
        typer.echo(f"\n{study_id} goes on; lcl study watch {study_id} looks again, lcl study cancel {study_id} ends it")
        raise typer.Exit(130) from None
    print_rows(study)
    _print_failures(study)
    if study["state"] != STUDY_FINAL_STATES[0]:
        raise typer.Exit(1)


def _print_failures(study: Json) -> None:
    for cell in study["cells"]:
        for each in (cell["run"], cell["evaluation"] or {}):
            if each.get("reason") and each["state"] == "failed":
                print_error(f"{each['id']} failed: {each['reason'].get('message', 'no reason was given')}")
    for note in study["notes"]:
        typer.echo(note)


def _write_file(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error
    typer.echo(str(file))
