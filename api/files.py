"""Files of a run, confined to its folder: nothing outside it, and no symbolic link, is ever opened."""

from __future__ import annotations

import codecs
import os
import re
import stat
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from fastapi.responses import FileResponse

from api.errors import Problem
from api.models import Artifact, LogPiece
from lcl_core.runs.artifacts import plain_files

PIECE = 1 << 20
FILE = "application/octet-stream"
MAX_LISTED = 10_000
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def list_files(folder: Path) -> list[Artifact]:
    """Regular files below ``folder`` by relative name; links and hidden files are left out."""
    return [
        Artifact(name=name, bytes=facts.st_size, modified_at=datetime.fromtimestamp(facts.st_mtime, UTC))
        for name, facts in islice(plain_files(folder), MAX_LISTED)
    ]


def confined_file(folder: Path, name: str) -> Path:
    """``folder / name`` if that is a regular file reached without any link. Raises: Problem 404."""
    parts = name.split("/")
    path = folder
    try:
        if "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise FileNotFoundError
        for part in parts:
            path = path / part
            if path.is_symlink():
                raise FileNotFoundError
        if not stat.S_ISREG(path.lstat().st_mode):
            raise FileNotFoundError
    except OSError as error:
        raise Problem(404, "unknown_artifact", f"there is no file {name[:200]!r} among the artifacts") from error
    return path


def file_answer(path: Path, range_header: str | None) -> FileResponse:
    """The file as a download, whole or the one range that was asked for. Raises: Problem 400 or 416."""
    facts = path.lstat()
    asked_range(range_header, facts.st_size)
    return FileResponse(path, filename=path.name, media_type=FILE, stat_result=facts)


def read_log(file: Path, offset: int) -> LogPiece:
    """Up to 1 MiB of text from byte ``offset`` on, cut between characters."""
    try:
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(min(offset, size))  # far behind the end some file systems refuse to read
            piece = log.read(PIECE)
    except FileNotFoundError:
        return LogPiece(text="", offset=0, size=0)
    return log_piece(piece, offset, size)


def log_piece(piece: bytes, offset: int, size: int) -> LogPiece:
    """What stands at byte ``offset`` of a log of ``size`` bytes, as text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(piece)
    pending = len(decoder.getstate()[0])  # the first bytes of a character that is not whole yet
    return LogPiece(text=text, offset=min(offset, size) + len(piece) - pending, size=size)


def asked_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None: the whole file was asked for.

    FileResponse would answer a bad range in plain text; here it becomes an error like any other.

    Raises: Problem 400 or 416.
    """
    if header is None:
        return None
    match = RANGE.fullmatch(header.strip().lower())
    if match is None or match.groups() == ("", ""):
        raise Problem(400, "bad_range", "send one range of bytes, such as `Range: bytes=0-1023`")
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = int(last) if first and last else size
    if start >= size or stop < start:
        message = f"the range lies outside the file's {size} bytes"
        raise Problem(416, "range_not_satisfiable", message, headers={"content-range": f"bytes */{size}"})
    return start, min(stop + 1, size)
