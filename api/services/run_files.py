"""Log and artifacts of a run, from the run's folder or from the artifact store.

Confined to the run's folder: nothing outside it, and no symbolic link, is ever opened.
"""

from __future__ import annotations

import codecs
import os
import stat
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.core.errors import Problem
from api.services.state import AppState
from lcl_core.common.errors import Conflict
from lcl_core.common.files import regular_files
from lcl_core.common.run_dir import RunDir
from lcl_core.db import artifacts
from lcl_core.db.models import ArtifactUpload, Run
from lcl_core.db.states import FINISHED

LOG_CHUNK_BYTES = 1 << 20
OCTET_STREAM = "application/octet-stream"
MAX_LISTED = 10_000
_ARTIFACTS = "artifacts/"
_LOG = "log.txt"


class LogChunk(BaseModel):
    text: str = Field(description="from the offset of the request on")
    offset: int = Field(description="where to go on")
    size: int = Field(description="bytes of the log now")


class ArtifactView(BaseModel):
    name: str = Field(description="path below the run's artifacts")
    bytes: int = Field(description="size")
    modified_at: datetime = Field(description="when it was written")
    sha256: str | None = Field(None, description="of what is in the store of artifacts")


class RunFiles:
    """Files of a run that the database knows; such ids are safe names.

    Raises (every method): Problem; UserError ``artifacts_pending``, ``store_unreachable``, or ``files_elsewhere`` while
        the run's folder is in the home of a worker alone.
    """

    def __init__(self, state: AppState, session: Session, run_id: str) -> None:
        path = f"runs/{run_id}"
        self._store = state.artifacts.store
        self._local = RunDir(Path(state.settings.runs_dir) / run_id)
        self._remote = state.artifacts.find_remote_copy(session, path)
        run = session.get(Run, run_id)
        under_way = run is not None and run.attempt > 0 and run.state not in FINISHED
        self._elsewhere = under_way and state.artifacts.holder is not None and not self._local.path.is_dir()
        upload = self._remote or session.get(ArtifactUpload, path)
        self._entries = _file_entries(upload) if upload is not None else {}

    def artifacts(self) -> list[ArtifactView]:
        """All artifacts, with the hashes of those in the artifact store."""
        remote = self._find_remote()
        if remote is None:
            return [self._with_hash(artifact) for artifact in list_files(self._local.artifacts)]
        artifacts.require_uploaded(remote)
        return [
            ArtifactView(name=name.removeprefix(_ARTIFACTS), **entry)
            for name, entry in sorted(self._entries.items())
            if name.startswith(_ARTIFACTS)
        ]

    def artifact(self, name: str) -> Response:
        """A download; of a file in this home also of the requested range."""
        remote = self._find_remote()
        if remote is None:
            path = confined_file(self._local.artifacts, name)
            return FileResponse(path, filename=path.name, media_type=OCTET_STREAM, stat_result=path.lstat())
        key = artifacts.require_uploaded(remote)
        entry = self._entries.get(f"{_ARTIFACTS}{name}")
        if entry is None:
            raise _unknown_artifact(name)
        headers = {
            "content-disposition": f"attachment; filename*=utf-8''{quote(name.rpartition('/')[2])}",
            "content-length": str(entry["bytes"]),
            "etag": f'"{entry["sha256"]}"',
        }
        chunks = self._store.read_stream(key, f"{_ARTIFACTS}{name}", 0, entry["bytes"])
        first = next(chunks, b"")  # an unreachable store is reported before the response begins
        return StreamingResponse(chain((first,), chunks), headers=headers, media_type=OCTET_STREAM)

    def log(self, offset: int) -> LogChunk:
        """Up to 1 MiB of the log from byte ``offset`` on."""
        remote = self._find_remote()
        if remote is None:
            return read_log(self._local.log_file, offset)
        key = artifacts.require_uploaded(remote)
        size = self._entries.get(_LOG, {"bytes": 0})["bytes"]
        data = b"".join(self._store.read_stream(key, _LOG, offset, min(offset + LOG_CHUNK_BYTES, size)))
        return _log_chunk(data, offset, size)

    def _find_remote(self) -> ArtifactUpload | None:
        """The copy in the store; None: the files are in this home. Raises: UserError ``files_elsewhere``."""
        if self._remote is None and self._elsewhere:
            raise Conflict(
                "log and artifacts of this run are on the machine of its worker, in runs/ID of LCL_HOME there, and can "
                "be read here when the run has ended; its metrics can be read meanwhile",
                code="files_elsewhere",
            )
        return self._remote

    def _with_hash(self, artifact: ArtifactView) -> ArtifactView:
        entry = self._entries.get(f"{_ARTIFACTS}{artifact.name}")
        if entry is None or (entry["bytes"], entry["modified_at"]) != (artifact.bytes, artifact.modified_at):
            return artifact
        return artifact.model_copy(update={"sha256": entry["sha256"]})


def list_files(folder: Path) -> list[ArtifactView]:
    """Regular files below ``folder`` by relative name, without links and hidden files."""
    return [
        ArtifactView(name=name, bytes=info.st_size, modified_at=datetime.fromtimestamp(info.st_mtime, UTC))
        for name, info in islice(regular_files(folder), MAX_LISTED)
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
        raise _unknown_artifact(name) from error
    return path


def read_log(file: Path, offset: int) -> LogChunk:
    """Up to 1 MiB of text from byte ``offset`` on, cut between characters."""
    try:
        with file.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(min(offset, size))  # some file systems refuse to read far beyond the end
            data = log.read(LOG_CHUNK_BYTES)
    except FileNotFoundError:
        return LogChunk(text="", offset=0, size=0)
    return _log_chunk(data, offset, size)


def _log_chunk(data: bytes, offset: int, size: int) -> LogChunk:
    """Bytes at ``offset`` of a log of ``size`` bytes, as text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    pending = len(decoder.getstate()[0])  # first bytes of an incomplete character
    return LogChunk(text=text, offset=min(offset, size) + len(data) - pending, size=size)


def _unknown_artifact(name: str) -> Problem:
    return Problem(404, "not_found", f"there is no file {name[:200]!r} among the artifacts")


def _file_entries(row: ArtifactUpload) -> dict[str, dict[str, Any]]:
    return {
        name: {**entry, "modified_at": datetime.fromisoformat(entry["modified_at"])}
        for name, entry in (row.files or {}).items()
    }
