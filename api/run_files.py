"""Files of a run wherever they are: in this home, or in the store of artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from api.context import Context
from api.errors import Problem
from api.files import FILE, PIECE, asked_range, confined_file, file_answer, list_files, log_piece, read_log
from api.models import Artifact, LogPiece
from lcl_core.rundir import RunDir
from lcl_core.runs import store
from lcl_core.runs.tables import Deposit

_ARTIFACTS = "artifacts/"
_LOG = "log.txt"


class RunFiles:
    """Only for ids that the database knows: it made them, so they are safe names.

    Raises (every method): Problem; UserError ``artifacts_pending`` or ``store_unreachable``.
    """

    def __init__(self, context: Context, session: Session, run_id: str) -> None:
        path = f"runs/{run_id}"
        self._supply = context.supply
        self._here = RunDir(Path(context.settings.runs_dir) / run_id)
        self._there = context.supply.elsewhere(session, path)
        known = self._there or store.deposit_of(session, path)
        self._facts = _facts(known) if known is not None else {}

    def artifacts(self) -> list[Artifact]:
        """With the hashes of those that are in the store."""
        if self._there is None:
            return [self._hashed(artifact) for artifact in list_files(self._here.artifacts)]
        store.check_there(self._there)
        return [
            Artifact(name=name.removeprefix(_ARTIFACTS), **facts)
            for name, facts in sorted(self._facts.items())
            if name.startswith(_ARTIFACTS)
        ]

    def artifact(self, name: str, range_header: str | None) -> Response:
        """A download, whole or the one range that was asked for."""
        if self._there is None:
            return file_answer(confined_file(self._here.artifacts, name), range_header)
        place = store.check_there(self._there)
        facts = self._facts.get(f"{_ARTIFACTS}{name}")
        if facts is None:
            raise Problem(404, "unknown_artifact", f"there is no file {name[:200]!r} among the artifacts")
        size = facts["bytes"]
        part = asked_range(range_header, size)
        start, end = part or (0, size)
        headers = {
            "accept-ranges": "bytes",
            "content-disposition": f"attachment; filename*=utf-8''{quote(name.rpartition('/')[2])}",
            "content-length": str(end - start),
            "etag": f'"{facts["sha256"]}"',
        }
        if part is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        chunks = _begun(self._supply.depot.chunks(place, f"{_ARTIFACTS}{name}", start, end))
        return StreamingResponse(
            chunks, 200 if part is None else 206, headers, media_type=FILE
        )

    def log(self, offset: int) -> LogPiece:
        """Up to 1 MiB of the log from byte ``offset`` on."""
        if self._there is None:
            return read_log(self._here.log_file, offset)
        place = store.check_there(self._there)
        size = self._facts.get(_LOG, {"bytes": 0})["bytes"]
        piece = b"".join(self._supply.depot.chunks(place, _LOG, offset, min(offset + PIECE, size)))
        return log_piece(piece, offset, size)

    def _hashed(self, artifact: Artifact) -> Artifact:
        facts = self._facts.get(f"{_ARTIFACTS}{artifact.name}")
        same = facts is not None and facts["bytes"] == artifact.bytes and facts["modified_at"] == artifact.modified_at
        return artifact.model_copy(update={"sha256": facts["sha256"]}) if facts is not None and same else artifact


def _facts(row: Deposit) -> dict[str, dict[str, Any]]:
    return {
        name: {**facts, "modified_at": datetime.fromisoformat(facts["modified_at"])}
        for name, facts in (row.files or {}).items()
    }


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with the first of them at hand: a store that is away is told before the answer begins."""
    first = next(chunks, b"")
    return chain((first,), chunks)
