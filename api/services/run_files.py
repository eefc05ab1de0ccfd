"""Log and artifacts of a run, from the run's folder or from the artifact store.

Confined to the run's folder: nothing outside it, and no symbolic link, is ever opened.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.core.state import AppState
from api.schemas.base import ArtifactView, LogChunk
from lcl_core.common.files import regular_files
from lcl_core.common.run_dir import RunDir
from lcl_core.db import outbox
from lcl_core.db.models import ArtifactUpload

LOG_CHUNK_BYTES = 1 << 20
OCTET_STREAM = "application/octet-stream"
MAX_LISTED = 10_000
RANGE_HEADER = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def list_files(folder: Path) -> list[ArtifactView]:
    """Regular files below ``folder`` by relative name; links and hidden files are left out."""
    return [
        ArtifactView(name=name, bytes=facts.st_size, modified_at=datetime.fromtimestamp(facts.st_mtime, UTC))
        for name, facts in islice(regular_files(folder), MAX_LISTED)
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


def file_response(path: Path, range_header: str | None) -> FileResponse:
    """The file as a download, whole or the one range that was asked for. Raises: Problem 400 or 416."""
    facts = path.lstat()
    parse_range(range_header, facts.st_size)
    return FileResponse(path, filename=path.name, media_type=OCTET_STREAM, stat_result=facts)


def read_log(file: Path, offset: int) -> LogChunk:
    """Up to 1 MiB of text from byte ``offset`` on, cut between characters."""
    try:
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(min(offset, size))  # far behind the end some file systems refuse to read
            piece = log.read(LOG_CHUNK_BYTES)
    except FileNotFoundError:
        return LogChunk(text="", offset=0, size=0)
    return log_chunk(piece, offset, size)


def log_chunk(piece: bytes, offset: int, size: int) -> LogChunk:
    """What stands at byte ``offset`` of a log of ``size`` bytes, as text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(piece)
    pending = len(decoder.getstate()[0])  # the first bytes of a character that is not whole yet
    return LogChunk(text=text, offset=min(offset, size) + len(piece) - pending, size=size)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None: the whole file was asked for.

    FileResponse would answer a bad range in plain text; here it becomes an error like any other.

    Raises: Problem 400 or 416.
    """
    if header is None:
        return None
    match = RANGE_HEADER.fullmatch(header.strip().lower())
    if match is None or match.groups() == ("", ""):
        raise Problem(400, "bad_range", "send one range of bytes, such as `Range: bytes=0-1023`")
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = int(last) if first and last else size
    if start >= size or stop < start:
        message = f"the range lies outside the file's {size} bytes"
        raise Problem(416, "range_not_satisfiable", message, headers={"content-range": f"bytes */{size}"})
    return start, min(stop + 1, size)


_ARTIFACTS = "artifacts/"
_LOG = "log.txt"


class RunFiles:
    """Only for ids that the database knows: it made them, so they are safe names.

    Raises (every method): Problem; UserError ``artifacts_pending`` or ``store_unreachable``.
    """

    def __init__(self, context: AppState, session: Session, run_id: str) -> None:
        path = f"runs/{run_id}"
        self._supply = context.artifacts
        self._here = RunDir(Path(context.settings.runs_dir) / run_id)
        self._there = context.artifacts.find_remote_copy(session, path)
        known = self._there or outbox.get_upload(session, path)
        self._facts = _file_entries(known) if known is not None else {}

    def artifacts(self) -> list[ArtifactView]:
        """With the hashes of those that are in the store."""
        if self._there is None:
            return [self._hashed(artifact) for artifact in list_files(self._here.artifacts)]
        outbox.require_uploaded(self._there)
        return [
            ArtifactView(name=name.removeprefix(_ARTIFACTS), **facts)
            for name, facts in sorted(self._facts.items())
            if name.startswith(_ARTIFACTS)
        ]

    def artifact(self, name: str, range_header: str | None) -> Response:
        """A download, whole or the one range that was asked for."""
        if self._there is None:
            return file_response(confined_file(self._here.artifacts, name), range_header)
        place = outbox.require_uploaded(self._there)
        facts = self._facts.get(f"{_ARTIFACTS}{name}")
        if facts is None:
            raise Problem(404, "unknown_artifact", f"there is no file {name[:200]!r} among the artifacts")
        size = facts["bytes"]
        part = parse_range(range_header, size)
        start, end = part or (0, size)
        headers = {
            "accept-ranges": "bytes",
            "content-disposition": f"attachment; filename*=utf-8''{quote(name.rpartition('/')[2])}",
            "content-length": str(end - start),
            "etag": f'"{facts["sha256"]}"',
        }
        if part is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        chunks = _start_stream(self._supply.store.read_stream(place, f"{_ARTIFACTS}{name}", start, end))
        return StreamingResponse(chunks, 200 if part is None else 206, headers, media_type=OCTET_STREAM)

    def log(self, offset: int) -> LogChunk:
        """Up to 1 MiB of the log from byte ``offset`` on."""
        if self._there is None:
            return read_log(self._here.log_file, offset)
        place = outbox.require_uploaded(self._there)
        size = self._facts.get(_LOG, {"bytes": 0})["bytes"]
        piece = b"".join(self._supply.store.read_stream(place, _LOG, offset, min(offset + LOG_CHUNK_BYTES, size)))
        return log_chunk(piece, offset, size)

    def _hashed(self, artifact: ArtifactView) -> ArtifactView:
        facts = self._facts.get(f"{_ARTIFACTS}{artifact.name}")
        same = facts is not None and facts["bytes"] == artifact.bytes and facts["modified_at"] == artifact.modified_at
        return artifact.model_copy(update={"sha256": facts["sha256"]}) if facts is not None and same else artifact


def _file_entries(row: ArtifactUpload) -> dict[str, dict[str, Any]]:
    return {
        name: {**facts, "modified_at": datetime.fromisoformat(facts["modified_at"])}
        for name, facts in (row.files or {}).items()
    }


def _start_stream(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with the first of them at hand: a store that is away is told before the answer begins."""
    first = next(chunks, b"")
    return chain((first,), chunks)
