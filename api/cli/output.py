"""What every command uses: global options, confirmation, spec files, ``--set`` fields, tables, JSON, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from api.client import Client, UserError
from api.client.payloads import Json, Progress, readable_path

Result = TypeVar("Result")
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
SpecFile = Annotated[str | None, typer.Option("--spec", help="JSON file with the spec; - reads standard input")]
Preset = Annotated[str | None, typer.Option("--preset", help="named starting point")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="field.name=value, over spec and preset; repeatable")
]
Resource = Annotated[str | None, typer.Option("--resource", help="cpu or gpu, which a worker must offer")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="next_cursor of the page before")]


Column = str | tuple[str, Callable[[Json], object]]  # a key of the items, or a title with what stands below it
MADE: Column = ("made", lambda item: ago(item["created_at"]))


@dataclass
class GlobalOptions:
    """The options before the command, and what depends on them."""

    url: str | None = None
    key: str | None = None
    as_json: bool = False

    def client(self) -> Client:
        return Client(self.url, self.key)

    def call(self, request: Callable[[Client], Result]) -> Result:
        """One request with a client of its own."""
        with self.client() as client:
            return request(client)

    def print(self, answer: Any, text: str) -> None:
        """The answer of the service as JSON, or ``text``."""
        print_json(answer) if self.as_json else typer.echo(text)

    def print_table(self, answer: Any, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """The answer of the service as JSON, or ``rows`` as a table."""
        print_json(answer) if self.as_json else print_table(columns, list(rows), empty)

    def print_items(self, answer: Any, columns: Sequence[Column], empty: str) -> None:
        """A list, or a page of one, as JSON or as a table."""
        page = answer if isinstance(answer, dict) else {"items": answer}
        titles = [column if isinstance(column, str) else column[0] for column in columns]
        rows = (
            [item.get(column) if isinstance(column, str) else column[1](item) for column in columns]
            for item in page["items"]
        )
        self.print_table(answer, titles, rows, empty)
        if page.get("next_cursor") and not self.as_json:
            typer.echo(f"older ones: --cursor {page['next_cursor']}")

    def print_file(self, path: Path) -> None:
        """A file that was written."""
        self.print({"file": readable_path(path)}, readable_path(path))

    def delete(self, request: Callable[[str], None], thing: str, question: str, yes: bool, name: str = "") -> None:
        """Delete after a yes. ``thing``: its id, or the name of what has none; ``name``: what people call it."""
        confirm(question, yes)
        request(thing)
        self.print({"id": thing, "deleted": True}, f"{name or thing} is deleted")


options = GlobalOptions()


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal, unless ``yes``. Raises: UserError for another answer than yes, and without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nothing was done, as there is no terminal to answer on; say --yes")
    if not typer.confirm(question, err=True):
        raise UserError("nothing was done; say y, or --yes")


@contextmanager
def going_on_after_interrupt(name: str, group: str) -> Iterator[None]:
    """Ctrl-C ends the command, not the run or study that it follows."""
    try:
        yield
    except KeyboardInterrupt:
        again, end = f"lcl {group} show {name} --watch looks again", f"lcl {group} cancel {name} ends it"
        typer.echo(f"\n{name} goes on; {again}, {end}", err=True)
        raise typer.Exit(130) from None


def print_error(message: str) -> None:
    typer.secho(f"error: {message}", fg="red", err=True)


def print_json(value: Any) -> None:
    """JSON; a list as ``{"items": […]}``, which is the shape of every list of the service."""
    value = {"items": value} if isinstance(value, list) else value
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table; without rows the text ``empty``."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        typer.echo(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))  # a text in brackets is no markup
    Console(width=None if sys.stdout.isatty() else 240).print(table)  # no line is cut in a pipe


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without blanks around them; empty ones are left out."""
    return [line for line in map(str.strip, path.read_text("utf-8-sig", "replace").splitlines()) if line]


def read_json(path: str) -> Json:
    """A JSON object from a file, or from standard input for ``-``. Raises: UserError."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def build_spec(path: str | None, preset: str | None, assignments: Sequence[str] | None) -> Json:
    """The spec of a file, with the name of a preset and the ``--set`` fields. Raises: UserError."""
    spec = read_json(path) if path else {}
    return set_fields(spec | ({} if preset is None else {"preset": preset}), assignments or ())


def set_fields(spec: Json, assignments: Sequence[str]) -> Json:
    """``a.b=VALUE`` into a nested spec; VALUE is JSON, else a text. Raises: UserError."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"--set {assignment!r}: write it as field.name=value")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        _set_field(spec, path, value)
    return spec


def _set_field(spec: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = spec
    for key in parents:
        if isinstance(node, dict):
            node = node.setdefault(key, {})
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise UserError(f"--set {path}: there is nothing at {key!r} to set a field in")
    if not isinstance(node, dict):
        raise UserError(f"--set {path}: there is nothing to set {last!r} in")
    node[last] = value


def parse_pairs(option: str, values: Sequence[str] | None, form: str = "label=value") -> dict[str, list[str]]:
    """The values of each name in a repeatable option of the form NAME=VALUE. Raises: UserError."""
    pairs: dict[str, list[str]] = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{option} {text!r}: write it as {form}")
        pairs.setdefault(name, []).append(value)
    return pairs


def parse_labels(option: str, values: Sequence[str] | None) -> dict[str, str | list[str]]:
    """As ``parse_pairs``, but a value alone is no list."""
    pairs = parse_pairs(option, values)
    return {name: found[0] if len(found) == 1 else found for name, found in pairs.items()}


def ago(moment: str | None) -> str:
    """Time since an ISO time."""
    if moment is None:
        return ""
    return duration((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) + " ago"


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``, ``4 d 3 h``."""
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


@contextmanager
def progress_bar(title: str, unit: Literal["bytes", "files", "images"]) -> Iterator[Progress]:
    """A bar on standard error if it is a terminal. Yields: a function that receives (done, total or None)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
