"""Readers of the official benchmark files; errors name the file and the line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion

CODE = "benchmark_unreadable"


def raise_format_error(message: str, file: Path, line: int | None = None) -> NoReturn:
    raise UserError(message, code=CODE, file=file, line=line)


def read_text(file: Path) -> str:
    """The text, lines ending in "\\n" alone. ``str.splitlines`` would also split at characters that stand in fields."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise_format_error(f"cannot be read ({error.strerror})", file)
    except UnicodeDecodeError as error:
        raise_format_error(f"is not UTF-8 text (byte {error.start})", file)


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise_format_error(f"is not JSON: {error.msg}", file, error.lineno)
    except RecursionError:
        raise_format_error("is nested too deeply", file)


def read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line that is not empty."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise_format_error(f"is not a JSON object ({error})", file, number)


def read_table(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a table with tabs and a heading.

    Args:
        columns: those that must be there.
    """
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), delimiter="\t")
    with _large_fields():
        try:
            lacking = [column for column in columns if column not in (reader.fieldnames or [])]
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise_format_error(f"is not a table ({error})", file, reader.line_num)
    if lacking:
        raise_format_error(f"has no column {', '.join(lacking)}; is it the official file, with tabs?", file, 1)
    for line, row in rows:
        if any(row[column] is None for column in columns):
            raise_format_error("the row is cut short", file, line)
        yield line, {key: value or "" for key, value in row.items() if key is not None}


@contextmanager
def _large_fields() -> Iterator[None]:
    """Raise the process's limit on CSV fields to the size of an image in base64, then restore it."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def find_one_file(path: Path, pattern: str) -> Path:
    """``path`` when it is a file, else the one matching file in the folder."""
    if path.is_file():
        return path
    files = sorted(path.glob(pattern)) if path.is_dir() else []
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        way_out = "; name one of them as the path" if files else ""
        raise_format_error(f"expected one file like {pattern} here, found {names}{way_out}", path)
    return files[0]


def read_entries(file: Path, key: str | None = None) -> list[dict[str, Any]]:
    """The list of objects that a JSON file is or, with ``key``, holds under it."""
    content = read_json(file)
    entries = content.get(key) if key is not None and isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise_format_error("expected a list of objects" + (f' under "{key}"' if key else ""), file)
    return entries


@contextmanager
def entry_errors(file: Path, entry: object, line: int | None = None) -> Iterator[None]:
    """Convert errors from a missing or malformed field of an entry to ``UserError``."""
    try:
        yield
    except KeyError as error:
        raise_format_error(f"entry {entry} has no {error}", file, line)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise_format_error(f"entry {entry} is not as expected ({error})", file, line)


def check_type(value: Any, kind: type, what: str, file: Path) -> Any:
    """``value``, if it is of that kind."""
    if not isinstance(value, kind):
        raise_format_error(f"expected {what}", file)
    return value


def check_unique(questions: list[BenchmarkQuestion], file: Path) -> list[BenchmarkQuestion]:
    """``questions``; an error if there is none or an id occurs twice."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise_format_error(f"question {question.id} occurs twice", file)
        seen.add(question.id)
    if not questions:
        raise_format_error("holds no question", file)
    return questions
