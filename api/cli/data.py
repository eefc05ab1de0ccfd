"""``lcl data …``: datasets. Paths are paths on the server, except for ``lcl data build``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import CommandError, Yes, ago, confirm, global_options, print_json, print_table, set_fields
from api.cli.runs import watch_run
from api.client import Client
from lcl_core.common.errors import UserError

Json = dict[str, Any]
# duplicates, and what readers of pages leave out on purpose
HARMLESS_PROBLEMS = ("duplicate image", "duplicate document", "small picture", "long picture", "repeated picture")
RECORD_KINDS = {"matched": ("matched", "matched"), "sequence": ("sequence", "sequences"), "pair": ("pair", "pairs")}


def has_errors(report: Json) -> bool:
    """Is there any problem but duplicates and icons?"""
    return any(reason not in HARMLESS_PROBLEMS for reason in report["reasons"])


def print_report(report: Json) -> None:
    """Counts, distributions in one line each, problems, and the first of them by file and line."""
    kinds = ", ".join(f"{number:,} {RECORD_KINDS[kind][number != 1]}" for kind, number in report["kinds"].items())
    rows: list[tuple[object, object]] = [
        ("records", kinds if len(report["kinds"]) == 1 else f"{report['documents']:,}: {kinds or 'none'}"),
        ("images", f"{report['images']:,} ({report['distinct_images']:,} different contents)"),
        (report["length_unit"], f"{report['tokens']:,}"),
    ]
    rows += [
        (name.replace("_", " "), _histogram_summary(histogram)) for name, histogram in report["histograms"].items()
    ]
    formats = ", ".join(f"{name} {number:,}" for name, number in report["image_formats"].items())
    traits = ", ".join(f"{name} {number:,}" for name, number in report["image_traits"].items())
    rows += [("image formats", formats), ("image traits", traits)]
    print_table(("what", "how many"), [row for row in rows if row[1]], "")
    problems = [(reason, f"{number:,}") for reason, number in report["reasons"].items()]
    print_table(("problem", "how often"), problems, "no problems")
    for finding in report["first"]:
        place = f"{finding['file']}:{finding['line']}" if finding["line"] else finding["file"]
        typer.secho(f"{place}: {finding['reason']}: {finding['detail']}", fg="red", err=True)
    more = report["quarantined"] + report["not_listed"] - len(report["first"])
    if more > 0:
        typer.secho(f"and {more:,} more: --out FOLDER fetches quarantine.jsonl", fg="red", err=True)


def _histogram_summary(histogram: Json) -> str:
    if not histogram["count"]:
        return ""
    mean = histogram["total"] / histogram["count"]
    return f"{histogram['least']:g} to {histogram['most']:g}, mean {mean:.3g}"


def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="name of the dataset to make")],
    out: Annotated[Path, typer.Option(help="folder to make, inside the service's data roots")],
    only: Annotated[list[str] | None, typer.Option(help="a source; repeatable; default: all")] = None,
    licence: Annotated[str, typer.Option(help="any or permissive: which works are taken")] = "any",
    cache: Annotated[Path | None, typer.Option(help="folder of packages")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="download what the cache lacks, with npm and apt-get")] = False,
) -> None:
    """Make a corpus of published packages on this machine, and register it. An interrupted one goes on.

    ``python -m lcl_core.dataset_builder list`` shows the sources; without the service, ``python -m lcl_core.dataset_builder build``.
    """
    settings = global_options(context)
    with settings.client() as client:
        if name in {row["name"] for row in client.datasets()}:
            raise CommandError(f"dataset {name!r} exists already; choose another name")
        _build_corpus(out, only, licence, cache, fetch, quiet=settings.as_json)
        row = client.register_dataset(name, str(out.resolve()))
    if settings.as_json:
        print_json(row)
    else:
        typer.echo(f"registered {row['name']} (sha256 {row['content_hash']})")


def _build_corpus(
    out: Path, only: list[str] | None, licence: str, cache: Path | None, fetch: bool, quiet: bool
) -> None:
    """Raises: Refused."""
    from lcl_core.dataset_builder import build as building
    from lcl_core.dataset_builder.packages import DEFAULT_CACHE, PackageCache
    from lcl_core.dataset_builder.sources import select_sources
    from lcl_core.dataset_builder.sources.base import parse_licence_choice

    say = (lambda text: None) if quiet else typer.echo
    try:
        plan = building.BuildPlan(tuple(select_sources(only)), licences=parse_licence_choice(licence))
        building.build(plan, PackageCache(cache or DEFAULT_CACHE, fetch, say), out, say)
    except UserError as error:
        raise CommandError(str(error)) from error


group = typer.Typer(help="Validate, convert, register and look at datasets.", no_args_is_help=True)


def _dataset_name(given: str) -> str:
    """Raises: Refused for a place."""
    if "/" in given:
        raise CommandError(
            f"{given} is a place, not the name of a dataset; lcl data register NAME {given} gives it one"
        )
    return given


Name = Annotated[str, typer.Argument(help="name of the dataset", callback=_dataset_name)]
ServerPath = Annotated[
    str, typer.Argument(help="folder or zip on the server, or a URL of shards, inside its data roots")
]
Target = Annotated[str, typer.Argument(help="name of a dataset; a path on the server or a URL: what has a slash in it")]
Format = Annotated[str, typer.Option(help="format of what lies at the path; auto: recognised")]
Options = Annotated[list[str] | None, typer.Option("--option", help="name=value for the format's reader; repeatable")]
To = Annotated[str | None, typer.Option(help="URL that gets the shards; default: the service's own disk")]


@group.command("list")
def list_(context: typer.Context) -> None:
    """The registered datasets."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.datasets()
    if settings.as_json:
        print_json(found)
        return
    rows = [(row["name"], (row["content_hash"] or "")[:12], ago(row["created_at"]), row["path"]) for row in found]
    print_table(("name", "content", "registered", "path"), rows, "no datasets yet; lcl data register adds one")


@group.command()
def versions(context: typer.Context, name: Name) -> None:
    """What a name stood for, newest first."""
    settings = global_options(context)
    with settings.client() as client:
        found = client.dataset_versions(name)
    if settings.as_json:
        print_json(found)
        return
    rows = [(row["version"], row["content_hash"][:12], ago(row["created_at"]), row["path"]) for row in found]
    print_table(("version", "content", "since", "path"), rows, "nothing is known of its contents yet; lcl data stats")


@group.command()
def validate(
    context: typer.Context,
    target: Target,
    format: Format = "auto",
    option: Options = None,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that decode; default: one a core")] = None,
    words: Annotated[bool, typer.Option("--words", help="measure texts in words, which is faster")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for report, pictures and quarantine list")] = None,
) -> None:
    """Read a corpus once, in parallel: counts, distributions, and what is wrong with it and where.

    Exit status 1 when there is a problem other than duplicates, and pictures that repeat over pages or are too small.
    """
    settings = global_options(context)
    asked = {"workers": workers, "tokens": not words}
    with settings.client() as client:
        if "/" in target:
            run = client.validate_path(target, format, set_fields({}, option or []), **asked)
        else:
            run = client.validate_dataset(target, **asked)
        run = _wait_for_success(client, run, settings.as_json)
        report = run["result"]["report"]
        if settings.as_json:
            print_json(report)
        else:
            print_report(report)
        if out is not None:
            _download_artifacts(client, run, out, settings.as_json)
    if has_errors(report):
        raise typer.Exit(1)


@group.command()
def convert(
    context: typer.Context,
    target: Target,
    name: Annotated[str, typer.Option(help="of the dataset to make; one that exists gets a new version")],
    format: Format = "auto",
    option: Options = None,
    shard_megabytes: Annotated[int, typer.Option(min=1, help="bound on a shard")] = 256,
    to: To = None,
) -> None:
    """Write a corpus as tar shards with an index, and register them as a dataset."""
    spec = {**_corpus_fields(target, format, option), "name": name, "shard_megabytes": shard_megabytes, "to": to}
    _run_and_report(context, "convert", spec)


@group.command()
def match(
    context: typer.Context,
    target: Target,
    encoder: Annotated[str, typer.Option(help="id or name of a registered encoder")],
    name: Annotated[str, typer.Option(help="of the dataset to make; one that exists gets a new version")],
    format: Format = "auto",
    option: Options = None,
    to: To = None,
) -> None:
    """Assign each image of a document to a sentence by an encoder, and register the result as a dataset."""
    _run_and_report(
        context, "match", {**_corpus_fields(target, format, option), "encoder": encoder, "name": name, "to": to}
    )


@group.command()
def register(
    context: typer.Context,
    name: Name,
    path: ServerPath,
    new_version: Annotated[bool, typer.Option("--new-version", help="the name stands for this from now on")] = False,
) -> None:
    """Read a corpus and give it a name."""
    settings = global_options(context)
    with settings.client() as client:
        row = client.register_dataset(name, path, new_version)
    if settings.as_json:
        print_json(row)
    else:
        typer.echo(f"registered {row['name']} (sha256 {row['content_hash']})")


@group.command()
def delete(context: typer.Context, name: Name, yes: Yes = False) -> None:
    """Remove a dataset with its versions, unless something needs it; for its owner and admins.

    What the service made goes with it; a corpus in the data roots stays.
    """
    with global_options(context).client() as client:
        row = client.dataset(name)
        confirm(f"delete dataset {row['name']} of {row['owner']}, all versions?", yes)
        client.delete_dataset(name)
    typer.echo(f"{name} is deleted")


@group.command()
def stats(context: typer.Context, name: Name) -> None:
    """Counts of documents, pictures, captions, splits and labels."""
    settings = global_options(context)
    with settings.client() as client:
        figures = client.dataset_statistics(name)
    if settings.as_json:
        print_json(figures)
        return
    counts = ("documents", "sentences", "pairs", "captions", "images")
    rows: list[tuple[object, object]] = [(count, f"{figures[count]:,}") for count in counts if count in figures]
    rows += [(f"split {split}", f"{number:,}") for split, number in figures.get("splits", {}).items()]
    rows += [(f"source {source}", f"{number:,}") for source, number in figures.get("sources", {}).items() if source]
    rows += [(f"label {label}", f"{facts['values']:,} values") for label, facts in figures.get("labels", {}).items()]
    print_table(("what", "how many"), rows, "")


@group.command()
def preview(
    context: typer.Context,
    name: Name,
    view: Annotated[str, typer.Option(help="interleaved or pairs")] = "interleaved",
    split: Annotated[str | None, typer.Option(help="only captioned images of this split")] = None,
    source: Annotated[str | None, typer.Option(help="only captioned images of this source")] = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Some documents, their pictures in place."""
    settings = global_options(context)
    with settings.client() as client:
        page = client.dataset_documents(name, offset, limit, view, split, source)
    if settings.as_json:
        print_json(page)
        return
    for item in page["items"]:
        typer.secho(item["id"], bold=True)
        for segment in item["segments"]:
            typer.echo(_segment(segment))
        if "problem" in item:
            typer.secho(f"  {item['problem']}", fg="red")
        typer.echo()
    typer.echo(f"{len(page['items'])} of {page['total']}")


def _segment(segment: Json) -> str:
    if "image" in segment:
        match = f"  (similarity {segment['similarity']:.2f})" if "similarity" in segment else ""
        return f"  [{segment['image']}]{match}"
    return textwrap.fill(segment["text"], 100, initial_indent="  ", subsequent_indent="  ")


def _corpus_fields(target: str, format: str, options: list[str] | None) -> Json:
    """The part of a spec that says which corpus. Raises: Refused."""
    if "/" not in target:
        if format != "auto" or options:
            raise CommandError("--format and --option are for a path; a registered dataset has its own form")
        return {"dataset": target}
    return {"path": target, "format": format, "options": set_fields({}, options or [])}


def _run_and_report(context: typer.Context, kind: str, spec: Json) -> None:
    """Submit a run that makes a dataset, follow it, and tell what it made."""
    settings = global_options(context)
    with settings.client() as client:
        run = _wait_for_success(client, client.submit(kind, spec), settings.as_json)
    made, skipped = run["result"]["dataset"], run["result"]["skipped"]
    if settings.as_json:
        print_json(run["result"])
        return
    shards = "1 shard" if made["shards"] == 1 else f"{made['shards']:,} shards"
    name = run["result"].get("registered_as", made["name"])
    typer.echo(
        f"registered {name}: {made['records']:,} records, {made['pictures']:,} images, "
        f"{shards}, {made['bytes'] / 1e6:,.1f} MB (sha256 {made['content_hash']})"
    )
    for reason, number in skipped.items():
        typer.echo(f"  left out: {reason}  {number:,}")


def _wait_for_success(client: Client, run: Json, silent: bool) -> Json:
    """The run once it has succeeded; otherwise why not is told, and the exit status is 1."""
    ended = client.wait(run["id"]) if silent else watch_run(client, run["id"])
    if ended["state"] == "succeeded":
        return ended
    if silent:
        reason = ended["reason"] or {}
        raise CommandError(f"{run['id']} {ended['state']}: {reason.get('message', 'it was stopped')}")
    raise typer.Exit(1)


def _download_artifacts(client: Client, run: Json, folder: Path, silent: bool) -> None:
    """Every artifact of the run. Raises: Refused."""
    for artifact in client.artifacts(run["id"]):
        target = folder / artifact["name"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise CommandError(f"the service offers a file outside the folder: {artifact['name']}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_artifact(run["id"], artifact["name"], target)
        except OSError as error:
            raise CommandError(f"{target} cannot be written: {error.strerror}") from error
        if not silent:
            typer.echo(str(target))
