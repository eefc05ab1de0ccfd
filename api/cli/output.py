"""What every command uses: global options, input files and ``--set`` fields, tables, JSON, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from api.client import Client
from api.client._sync.transport import Progress

Json = dict[str, Any]


class CommandError(Exception):
    """Something on this side is wrong: a file, an option. Told in one sentence, exit status 1."""


@dataclass(frozen=True)
class GlobalOptions:
    """The options before the command."""

    url: str | None
    key: str | None
    as_json: bool

    def client(self) -> Client:
        return Client(self.url, self.key)


def global_options(context: typer.Context) -> GlobalOptions:
    found = context.find_object(GlobalOptions)
    assert found is not None, "the callback of the application runs first"
    return found


Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]


def confirm(question: str, yes: bool) -> None:
    """Ask, unless ``yes``. Raises: Refused for any other answer than yes, or none."""
    if yes:
        return
    try:
        answered = typer.confirm(question, err=True)
    except typer.Abort:
        answered = False
    if not answered:
        raise CommandError("nothing was deleted; say y, or --yes")


def print_error(message: str) -> None:
    typer.secho(f"error: {message}", fg="red", err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table for people; ``empty`` when there is nothing to show."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        typer.echo(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    # A pipe has no width to fit: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def read_file(path: Path) -> bytes:
    """Raises: Refused."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: str) -> Json:
    """A JSON object from a file, or from standard input for ``-``. Raises: Refused."""
    text = sys.stdin.read() if path == "-" else read_file(Path(path)).decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(f"{path} holds no JSON object")
    return value


def set_fields(spec: Json, assignments: Sequence[str]) -> Json:
    """``a.b=VALUE`` into a nested spec; VALUE is JSON, else a text. Raises: Refused."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise CommandError(f"--set {assignment!r}: write it as field.name=value")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        _assign(spec, path.split("."), value, path)
    return spec


def build_spec(path: str | None, preset: str | None, assignments: Sequence[str] | None) -> Json:
    """What a file, a preset's name and ``--set`` say together. Raises: Refused."""
    spec = read_json(path) if path else {}
    return set_fields(spec | ({} if preset is None else {"preset": preset}), assignments or ())


def parse_pairs(option: str, given: Sequence[str] | None, form: str = "label=value") -> list[tuple[str, str]]:
    """What a repeatable option says, each of this form. Raises: Refused."""
    found = []
    for each in given or ():
        label, equals, value = each.partition("=")
        if not equals:
            raise CommandError(f"{option} {each!r}: write it as {form}")
        found.append((label, value))
    return found


def ago(moment: str | None) -> str:
    """An ISO time as how long ago it was."""
    if moment is None:
        return ""
    return duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) + " ago"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min, 4 d 3 h."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def _assign(spec: Json, keys: list[str], value: Any, path: str) -> None:
    place: Any = spec
    for key in keys[:-1]:
        if isinstance(place, dict):
            place = place.setdefault(key, {})
        elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        else:
            raise CommandError(f"--set {path}: there is nothing at {key!r} to set a field in")
    if not isinstance(place, dict):
        raise CommandError(f"--set {path}: there is nothing to set {keys[-1]!r} in")
    place[keys[-1]] = value


@contextmanager
def progress_bar(words: str, unit: Literal["bytes", "pictures"]) -> Iterator[Progress]:
    """What is to be told how far it is: (done, of how many, or None). Standard output stays free for results."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(words, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
