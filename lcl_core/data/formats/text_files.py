"""Bounded reading of text files: lines (plain, gzipped or in a zip), and files that are one JSON value."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lcl_core.common.archive import MAX_EXPANSION, MIN_ALLOWANCE_BYTES, open_zip
from lcl_core.data.jsonl import MAX_LINE_BYTES, BadValue, parse_json, parse_json_object, to_json_safe
from lcl_core.data.records import BadItem

MAX_JSON_BYTES = 1 << 30  # of a file that is one JSON value: about ten times that as objects
_READ_ERRORS = (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, RuntimeError, LookupError, ValueError)


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line that is not blank, without its end.

    Attributes:
        number: from 1.
        member: the file in a zip that it comes from, empty for the only one there.
    """

    number: int
    data: bytes
    member: str = ""


def read_lines(path: Path, name: str) -> Iterator[TextLine | BadItem]:
    """All lines; what the file is shows in its first bytes. A zip gives the lines of all its ``.jsonl`` members.

    A line above ``MAX_LINE_BYTES`` is a BadItem, and so is the place where an archive is cut short, damaged, or
    unpacks to more than ``MAX_EXPANSION`` times its size (small ones apart).
    """
    try:
        allowance = max(MIN_ALLOWANCE_BYTES, MAX_EXPANSION * path.stat().st_size)
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic == b"PK\3\4":
                yield from _zip_lines(file, name, allowance)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from _stream_lines(cast(BinaryIO, unpacked), name, allowance)
            else:
                yield from _stream_lines(file, name, None)
    except _READ_ERRORS as error:
        yield BadItem(name, 0, "unreadable file", str(error)[:200])


def read_json_lines(path: Path, name: str) -> Iterator[tuple[TextLine, dict[str, Any]] | BadItem]:
    """The objects of the lines, likewise."""
    for line in read_lines(path, name):
        if isinstance(line, BadItem):
            yield line
            continue
        try:
            yield line, parse_json_object(line.data)
        except BadValue as error:
            yield BadItem(name, line.number, "bad line", str(error))


def read_numbered_objects(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]] | BadItem]:
    """The objects of a file with their numbers from 1: those of its lines, or of a ``.json`` that is an array."""
    if path.suffix.lower() != ".json":
        for item in read_json_lines(path, name):
            yield item if isinstance(item, BadItem) else (item[0].number, item[1])
        return
    value = read_json_file(path, name)
    if isinstance(value, BadItem) or not isinstance(value, list):
        yield value if isinstance(value, BadItem) else BadItem(name, 0, "bad json", "it must be an array")
        return
    for number, row in enumerate(value, 1):
        yield (number, row) if isinstance(row, dict) else BadItem(name, number, "bad row", "it must be an object")


def _zip_lines(file: BinaryIO, name: str, allowance: int) -> Iterator[TextLine | BadItem]:
    with open_zip(file) as archive:
        found = sorted(
            each for each in archive.namelist() if each.lower().endswith(".jsonl") and not each.startswith("__MACOSX/")
        )
        if not found:
            yield BadItem(name, 0, "unreadable file", "the zip has no .jsonl file")
        for member in found:
            try:
                with archive.open(member) as unpacked:
                    yield from _stream_lines(
                        cast(BinaryIO, unpacked), name, allowance, member if len(found) > 1 else ""
                    )
            except _READ_ERRORS as error:  # encrypted, or packed in an unusual way
                yield BadItem(name, 0, "unreadable file", f"{member[:120]!r}: {error}"[:300])


def _stream_lines(file: BinaryIO, name: str, allowance: int | None, member: str = "") -> Iterator[TextLine | BadItem]:
    # readline of an unpacking file would otherwise go byte by byte
    reader = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
    number = total = 0
    try:
        while data := reader.readline(MAX_LINE_BYTES + 1):
            number += 1
            total += len(data)
            too_long = len(data) > MAX_LINE_BYTES and not data.endswith(b"\n")
            while too_long and not data.endswith(b"\n") and (data := reader.readline(1 << 20)):
                total += len(data)
                if allowance is not None and total > allowance:
                    break
            if allowance is not None and total > allowance:
                yield BadItem(name, number, "archive expands too much", f"beyond {allowance:,} bytes")
                return
            if too_long:
                yield BadItem(name, number, "line too long", f"more than {MAX_LINE_BYTES:,} bytes")
            elif stripped := data.rstrip(b"\r\n"):
                yield TextLine(number, stripped, member)
    except _READ_ERRORS as error:
        yield BadItem(name, number + 1, "damaged archive", f"the rest is lost: {error}"[:200])


def read_json_file(path: Path, name: str) -> Any | BadItem:
    """The value of a JSON file; a BadItem for one that cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return BadItem(name, 0, "unreadable file", f"larger than {MAX_JSON_BYTES:,} bytes")
        data = path.read_bytes()
    except OSError as error:
        return BadItem(name, 0, "unreadable file", str(error.strerror))
    try:
        return to_json_safe(parse_json(data))
    except BadValue as error:
        cause = error.__cause__
        return BadItem(name, cause.lineno if isinstance(cause, json.JSONDecodeError) else 0, "bad json", str(error))
