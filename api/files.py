"""Files of a run, confined to its folder: nothing outside it, and no symbolic link, is ever opened."""

from __future__ import annotations

import codecs
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

from fastapi.responses import FileResponse

from api.errors import Problem
from api.models import Artifact, LogPiece

PIECE = 1 << 20
MAX_LISTED = 10_000
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def list_files(folder: Path) -> list[Artifact]:
    """Regular files below ``folder`` by relative name; links and hidden files are left out."""
    found: list[Artifact] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (Path(place) / name for name in sorted(names) if not name.startswith("."))
        found += [artifact for path in shown if (artifact := _artifact(folder, path))]
        if len(found) >= MAX_LISTED:
            break
    return found[:MAX_LISTED]


def _artifact(folder: Path, path: Path) -> Artifact | None:
    try:
        facts = path.lstat()
    except FileNotFoundError:  # a file of a run at work may go at any time
        return None
    if not stat.S_ISREG(facts.st_mode):
        return None
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    return Artifact(name=path.relative_to(folder).as_posix(), bytes=facts.st_size, modified_at=modified)


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
    if range_header is not None:
        _check_range(range_header, facts.st_size)
    return FileResponse(path, filename=path.name, media_type="application/octet-stream", stat_result=facts)


def read_log(file: Path, offset: int) -> LogPiece:
    """Up to 1 MiB of text from byte ``offset`` on, cut between characters."""
    try:
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(offset)
            piece = log.read(PIECE)
    except FileNotFoundError:
        return LogPiece(text="", offset=0, size=0)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(piece)
    pending = len(decoder.getstate()[0])  # the first bytes of a character that is not whole yet
    return LogPiece(text=text, offset=min(offset, size) + len(piece) - pending, size=size)


def _check_range(header: str, size: int) -> None:
    """FileResponse would answer a bad range in plain text; here it becomes an error like any other."""
    match = RANGE.fullmatch(header.strip().lower())
    if match is None or match.groups() == ("", ""):
        raise Problem(400, "bad_range", "send one range of bytes, such as `Range: bytes=0-1023`")
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = int(last) if first and last else size
    if start >= size or stop < start:
        message = f"the range lies outside the file's {size} bytes"
        raise Problem(416, "range_not_satisfiable", message, headers={"content-range": f"bytes */{size}"})
