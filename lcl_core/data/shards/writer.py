"""Records into tar files of bounded size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lcl_core.data.shards.groups import Group
from lcl_core.data.shards.index import Header, Shard, write_index
from lcl_core.data.shards.layout import (
    MAX_GROUPS,
    MAX_RECORDS,
    ROW,
    SIMILARITY,
    image_name,
    json_name,
    shard_name,
)
from lcl_core.data.shards.tar import END, member
from lcl_core.errors import UserError

_ROW_FILE, _SIMILARITY_FILE = "rows.tmp", "similarities.tmp"
_ROWS_AT_ONCE = 1 << 20


class ShardWriter:
    """Writes below ``folder``: the same records give the same bytes.

    Args:
        folder: exists.
        shard_bytes: a shard is closed before it grows beyond this; a larger record has a shard of its own.
        on_shard: called with the name of each shard that is closed.
    """

    def __init__(self, folder: Path, shard_bytes: int, on_shard: Callable[[str], None]) -> None:
        self._folder, self._shard_bytes, self._on_shard = folder, shard_bytes, on_shard
        self._shards: list[Shard] = []
        self._groups: dict[Group, int] = {}
        self._rows = (folder / _ROW_FILE).open("wb")
        self._similarities = (folder / _SIMILARITY_FILE).open("wb")
        self._shard: _OpenShard | None = None
        self.records = 0

    def add(
        self,
        group: Group,
        description: bytes,
        pictures: list[tuple[bytes, str]],
        text_bytes: int,
        similarities: list[float],
    ) -> None:
        """Append a record.

        Args:
            pictures: (bytes, extension) in order; those without bytes only have their number.
            similarities: see ``body.similarities_of``.

        Raises: UserError where a corpus has more records or groups than the form can number.
        """
        if self.records >= MAX_RECORDS:
            message = f"a sharded corpus holds at most {MAX_RECORDS:,} records; make several, and mix them"
            raise UserError(message, code="corpus_too_large")
        record, code = self.records, self._code(group)
        head = member(json_name(record), description)
        body = [member(image_name(record, n, kind), data) for n, (data, kind) in enumerate(pictures) if data]
        data = b"".join((head, *body))
        shard = self._room_for(len(data))
        matches = len(similarities)
        row = (shard.bytes, len(data), len(head), text_bytes, len(self._shards), len(pictures), matches, code)
        self._rows.write(np.array(row, ROW).tobytes())
        self._similarities.write(np.array(similarities, SIMILARITY).tobytes())
        shard.write(data)
        self.records += 1

    def finish(self, quarantined: dict[str, int]) -> Header:
        """Close the last shard and write the index."""
        self._close_shard()
        self._rows.close()
        self._similarities.close()
        header = write_index(self._folder, self._parts(), self._groups, self._shards, quarantined)
        for name in (_ROW_FILE, _SIMILARITY_FILE):
            (self._folder / name).unlink()
        return header

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        row_file, similarity_file = ((self._folder / name).open("rb") for name in (_ROW_FILE, _SIMILARITY_FILE))
        with row_file as rows, similarity_file as similarities:
            while data := rows.read(_ROWS_AT_ONCE * ROW.itemsize):
                part = np.frombuffer(data, ROW)
                matches = int(part["matches"].sum(dtype=np.int64))
                yield part, np.frombuffer(similarities.read(matches * SIMILARITY.itemsize), SIMILARITY)

    def _code(self, group: Group) -> int:
        code = self._groups.setdefault(group, len(self._groups))
        if code >= MAX_GROUPS:
            message = f"more than {MAX_GROUPS:,} kinds of (split, source); name fewer sources"
            raise UserError(message, code="too_many_sources")
        return code

    def _room_for(self, size: int) -> _OpenShard:
        if self._shard is not None and self._shard.bytes + size + len(END) > self._shard_bytes:
            self._close_shard()
        if self._shard is None:
            self._shard = _OpenShard(self._folder, shard_name(len(self._shards)))
        return self._shard

    def _close_shard(self) -> None:
        if self._shard is not None:
            shard = self._shard.close()
            self._shards.append(shard)
            self._shard = None
            self._on_shard(shard.name)


class _OpenShard:
    """The tar file that is being written."""

    def __init__(self, folder: Path, name: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        self._file: BinaryIO = (folder / name).open("wb")
        self._digest = hashlib.sha256()
        self._name, self._records = name, 0
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self._append(data)
        self._records += 1

    def close(self) -> Shard:
        self._append(END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Shard(self._name, self.bytes, self._digest.hexdigest(), self._records)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)
