"""``lcl data …``: datasets. Paths are paths on the server."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import (
    MADE,
    Yes,
    options,
    print_table,
    progress_bar,
    read_lines,
    set_fields,
)
from api.cli.runs import download_artifacts, watch_run
from api.client import Client, UserError
from api.client.payloads import Json
from lcl_core.common.paths import check_name

group = typer.Typer(help="Validate, convert, register and look at datasets.", no_args_is_help=True)
# duplicates, and what readers of web pages leave out
HARMLESS_PROBLEMS = (
    "duplicate image", "duplicate document", "small image", "long image", "repeated image", "repeated text"
)  # fmt: skip


def _new_name(text: str) -> str:
    """Raises: UserError for what no dataset can be called, before anything is sent or built."""
    check_name(text)
    return text


def _dataset_name(text: str) -> str:
    """Raises: UserError for a path."""
    if "/" in text:
        raise UserError(f"{text} is a path, not the name of a dataset; lcl data register NAME {text} gives it one")
    return text


Name = Annotated[str, typer.Argument(help="name of the dataset", callback=_dataset_name)]
NewName = Annotated[
    str, typer.Option(help="of the dataset to make; one that exists gets a new version", callback=_new_name)
]
ServerPath = Annotated[
    str, typer.Argument(help="folder or zip on the server, or a URL of shards, inside its data roots")
]
Target = Annotated[
    str,
    typer.Argument(help="name of a dataset; or a path on the server or a URL, with a slash in it"),
]
Format = Annotated[str, typer.Option(help="format of the path; auto: detected")]
Options = Annotated[list[str] | None, typer.Option("--option", help="name=value for the format's reader; repeatable")]
ShardMegabytes = Annotated[int, typer.Option(min=1, max=16_384, help="bound on a shard")]
To = Annotated[str | None, typer.Option(help="URL for the shards; default: the service's own disk")]


@group.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="a dataset, whose versions are listed")] = None,
) -> None:
    """The registered datasets; with a name the versions of that dataset, newest first."""
    content = ("content", lambda row: (row["content_hash"] or "")[:12])
    if name is None:
        datasets = options.call(lambda client: client.datasets())
        options.print_items(datasets, ("name", content, MADE, "path"), "no datasets yet; lcl data register adds one")
    else:
        versions = options.call(lambda client: client.dataset(name))["versions"]
        options.print_items(versions, ("version", content, MADE, "path"), "no version is known yet; lcl data stats")


@group.command()
def validate(
    target: Target,
    format: Format = "auto",
    option: Options = None,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that decode; default: one a core")] = None,
    words: Annotated[bool, typer.Option("--words", help="measure texts in words, which is faster")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for report, images and quarantine list")] = None,
) -> None:
    """Read a corpus once, in parallel: counts, distributions, and problems with file and line.

    Exit status 1 for problems other than duplicates and images that are too small or repeat over pages.
    """
    validation = {"workers": workers, "tokens": not words}
    with options.client() as client:
        run = client.submit("validate", {**_corpus_fields(target, format, option), **validation})
        report = _wait_for_result(client, run)["report"]
        if options.as_json:
            options.print(report, "")
        else:
            print_report(report)
        if out is not None:
            download_artifacts(client, run["id"], client.artifacts(run["id"]), out)
    if set(report["reasons"]).difference(HARMLESS_PROBLEMS):
        raise typer.Exit(1)


@group.command()
def convert(
    target: Target,
    name: NewName,
    format: Format = "auto",
    option: Options = None,
    shard_megabytes: ShardMegabytes = 256,
    to: To = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="that read and decode")] = 1,
    hold_out: Annotated[float, typer.Option(min=0, max=0.5, help="share of the images for an exam, by file")] = 0,
    only_tag: Annotated[list[str] | None, typer.Option(help="only what has this tag; repeatable: any of them")] = None,
    without_tag: Annotated[list[str] | None, typer.Option(help="leave out what has this tag; repeatable")] = None,
) -> None:
    """Write a corpus as tar shards with an index, and register them as a dataset."""
    fields = {"name": name, "shard_megabytes": shard_megabytes, "to": to, "processes": processes, "hold_out": hold_out}
    tags = {field: tags for field, tags in (("only_tags", only_tag), ("without_tags", without_tag)) if tags}
    spec = {**_corpus_fields(target, format, option), **fields, **tags}
    _convert(spec)


@group.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="folder or zip on this machine, in any readable format")],
    name: NewName,
    format: Format = "auto",
    option: Options = None,
    shard_megabytes: ShardMegabytes = 256,
) -> None:
    """Send a corpus to the service, convert it to shards, and register them as a dataset.

    For a corpus that the service cannot see; one in its data roots is converted where it is (lcl data convert).
    """
    with options.client() as client, progress_bar(source.name, unit="bytes") as on_progress:
        upload = client.upload_corpus(source, on_progress)
    reader = {"format": format, "options": set_fields({}, option or [])}
    try:
        _convert({"path": upload["path"], **reader, "name": name, "shard_megabytes": shard_megabytes})
    except BaseException:  # also Ctrl-C
        again = f"lcl data convert {upload['path']} --name {name}, with the same options"
        typer.echo(f"the files stay on the service for some time; without sending them again: {again}", err=True)
        raise
    options.call(lambda client: client.delete_upload(upload["id"]))  # after an error a resumed run may still need it


@group.command()
def register(
    name: Name,
    path: ServerPath,
    new_version: Annotated[bool, typer.Option("--new-version", help="add a version to an existing dataset")] = False,
) -> None:
    """Read a corpus and register it under a name."""
    row = options.call(lambda client: client.register_dataset(name, path, new_version))
    options.print(row, f"registered {row['name']} (sha256 {row['content_hash']})")


@group.command()
def delete(name: Name, yes: Yes = False) -> None:
    """Remove a dataset with its versions, unless something uses it; for its owner and admins.

    Files that the service made are deleted; a corpus in the data roots stays.
    """
    with options.client() as client:
        row = client.dataset(name)
        question = f"delete dataset {row['name']} of {row['owner']}, all versions?"
        options.delete(client.delete_dataset, name, question, yes)


@group.command()
def stats(name: Name) -> None:
    """Counts of documents, images, captions, splits and labels."""
    figures = options.call(lambda client: client.dataset_statistics(name))
    counts = ("documents", "sentences", "pairs", "captions", "images")
    rows = [(count, f"{figures[count]:,}") for count in counts if count in figures]
    for part in ("split", "source"):
        rows += [(f"{part} {name}", f"{number:,}") for name, number in figures.get(f"{part}s", {}).items() if name]
    rows += [(f"label {name}", f"{label['values']:,} values") for name, label in figures.get("labels", {}).items()]
    options.print_table(figures, ("what", "how many"), rows, "")


@group.command()
def preview(
    name: Name,
    view: Annotated[str, typer.Option(help="interleaved or pairs")] = "interleaved",
    split: Annotated[str | None, typer.Option(help="only captioned images of this split")] = None,
    source: Annotated[str | None, typer.Option(help="only captioned images of this source")] = None,
    words: Annotated[str | None, typer.Option(help="only those with all of these words")] = None,
    tag: Annotated[str | None, typer.Option(help="only those with this tag")] = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 3,
) -> None:
    """Some documents with their images in place."""
    query: Json = {"offset": offset, "limit": limit, "view": view}
    query |= {"split": split, "source": source, "q": words, "tag": tag}
    page = options.call(lambda client: client.dataset_documents(name, **query))
    if options.as_json:
        options.print(page, "")
        return
    for item in page["items"]:
        typer.secho(item["id"], bold=True, nl=False)
        typer.echo(f"  ({item['item']}{''.join(f', {tag}' for tag in item['tags'])})")
        for segment in item["segments"]:
            if "image" in segment:
                similarity = f"  (similarity {segment['similarity']:.2f})" if "similarity" in segment else ""
                typer.echo(f"  [{segment['image']}]{similarity}")
            else:
                typer.echo(textwrap.fill(segment["text"], 100, initial_indent="  ", subsequent_indent="  "))
        if "problem" in item:
            typer.secho(f"  {item['problem']}", fg="red")
        typer.echo()
    more = "" if page["next"] is None else f"; go on with --offset {page['next']}"
    typer.echo(f"{len(page['items'])} of {page['total']}{more}")


@group.command()
def tag(
    name: Name,
    items: Annotated[
        list[str] | None, typer.Argument(help="such as interleaved.jsonl:12; lcl data preview shows them")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="file with further ones, one a line", metavar="FILE")] = None,
    add: Annotated[list[str] | None, typer.Option(help="tag that they gain; repeatable")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="tag that they lose; repeatable")] = None,
) -> None:
    """Change tags of documents and captioned images, which lcl data convert keeps or leaves out; or list the tags.

    Example: lcl data tag manuals 000000012 --add blurred; lcl data convert manuals --name clean --without-tag blurred
    """
    chosen = [*(items or ()), *(read_lines(ids) if ids else ())]
    if not (chosen or add or remove):
        counts = options.call(lambda client: client.dataset_tags(name))
        options.print_table(counts, ("tag", "items"), counts.items(), "no tags yet; --add adds one")
        return
    if not chosen:
        raise UserError("no documents are named; give them as lcl data preview shows them, or --ids FILE")
    if not (add or remove):
        raise UserError("nothing is changed; give --add or --remove")
    changed = options.call(lambda client: client.tag_documents(name, chosen, add=add or (), remove=remove or ()))
    options.print({"changed": changed}, f"{changed} of {len(chosen)} documents changed")


def print_report(report: Json) -> None:
    """Counts and distributions of a validation report, its problems, and the first of them by file and line."""
    rows = [
        *((f"records: {kind}", f"{number:,}") for kind, number in report["kinds"].items()),
        ("images", f"{report['images']:,} ({report['distinct_images']:,} different contents)"),
        (report["length_unit"], f"{report['tokens']:,}"),
    ]
    for name, histogram in report["histograms"].items():
        if histogram["count"]:
            mean = histogram["total"] / histogram["count"]
            rows.append((name.replace("_", " "), f"{histogram['least']:g} to {histogram['most']:g}, mean {mean:.3g}"))
    for counts in ("image_formats", "image_traits"):
        rows += [(f"images: {name}", f"{number:,}") for name, number in report[counts].items()]
    print_table(("what", "how many"), rows, "")
    print_table(("problem", "how often"), list(report["reasons"].items()), "no problems")
    for issue in report["first"]:
        location = f"{issue['file']}:{issue['line']}" if issue["line"] else issue["file"]
        typer.secho(f"{location}: {issue['reason']}: {issue['detail']}", fg="red", err=True)
    more = report["quarantined"] + report["not_listed"] - len(report["first"])
    if more > 0:
        typer.secho(f"and {more:,} more: --out FOLDER fetches quarantine.jsonl", fg="red", err=True)


def _corpus_fields(target: str, format: str, options: list[str] | None) -> Json:
    """Fields of a spec that name the corpus. Raises: UserError."""
    if "/" not in target:
        if format != "auto" or options:
            raise UserError("--format and --option are for a path; a registered dataset has its own form")
        return {"dataset": target}
    return {"path": target, "format": format, "options": set_fields({}, options or [])}


def _convert(spec: Json) -> None:
    """Submit a conversion, follow it, and print the dataset."""
    result = options.call(lambda client: _wait_for_result(client, client.submit("convert", spec)))
    dataset = result["dataset"]
    lines = [
        f"registered {result.get('registered_as', dataset['name'])}: {dataset['records']:,} records, "
        f"{dataset['pictures']:,} images, shards: {dataset['shards']:,}, {dataset['bytes'] / 1e6:,.1f} MB "
        f"(sha256 {dataset['content_hash']})"
    ]
    lines += [
        f"  held out: {what.replace('_', ' ')}  {number:,}" for what, number in result.get("hold_out", {}).items()
    ]
    lines += [f"  left out: {reason}  {number:,}" for reason, number in result["skipped"].items()]
    options.print(result, "\n".join(lines))


def _wait_for_result(client: Client, run: Json) -> Json:
    """The result of the run once it has succeeded; otherwise its reason is printed and the exit status is 1."""
    ended = watch_run(client, run["id"])
    if ended["state"] == "succeeded":
        return ended["result"] or {}
    if options.as_json:
        reason = ended["reason"] or {}
        raise UserError(f"{run['id']} {ended['state']}: {reason.get('message', 'it was stopped')}")
    raise typer.Exit(1)
