"""A file of pieces behind one another, with an index of where each begins: JSON lines, pictures, vectors."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import IO, Any

import numpy as np


class Pieces:
    """Reads any piece without the others; piece ``row`` is offsets[row] to offsets[row + 1]. Thread-safe."""

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        """``offsets``: int64 [n+1], ascending, the last one the file's size."""
        self._offsets = offsets
        self._bytes: mmap.mmap | bytes = b""
        if path.stat().st_size:  # an empty file cannot be mapped
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def piece(self, row: int) -> bytes:
        return self._bytes[int(self._offsets[row]) : int(self._offsets[row + 1])]

    def record(self, row: int) -> dict[str, Any]:
        """The piece as a JSON object."""
        return json.loads(self.piece(row))


class PieceWriter:
    """Writes the pieces and remembers where each begins."""

    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] = path.open("wb")
        self._ends = [0]

    @property
    def count(self) -> int:
        return len(self._ends) - 1

    def append(self, data: bytes) -> None:
        self.file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def append_record(self, record: dict[str, Any]) -> None:
        """One JSON line."""
        self.append(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def offsets(self) -> np.ndarray:
        """int64 [count+1]."""
        return np.array(self._ends, dtype=np.int64)
