"""Files of vectors, written page by page: NumPy, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

Page = tuple[Sequence[str], Sequence[Sequence[float]]]  # names of images, and their vectors
Writer = Callable[[int, Iterable[Page]], Iterator[bytes]]


def as_npy(total: int, pages: Iterable[Page]) -> Iterator[bytes]:
    """float32 [total, dim] for ``numpy.load``, without the names. Raises: ValueError for another number of vectors."""
    written = 0
    for _, vectors in pages:
        rows = np.asarray(vectors, dtype="<f4")
        if not written:
            yield _npy_header(total, rows.shape[1] if rows.ndim == 2 else 0)
        written += len(rows)
        yield rows.tobytes()
    if written != total:
        raise ValueError(f"{written} vectors came and {total} were announced: the download is incomplete")


def _npy_header(total: int, dim: int) -> bytes:
    out = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (total, dim)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def as_csv(total: int, pages: Iterable[Page]) -> Iterator[bytes]:
    """``name,v0,v1,…``, one line an image."""
    headed = False
    for names, vectors in pages:
        out = io.StringIO()
        writer = csv.writer(out)
        if not headed:
            writer.writerow(["name", *(f"v{i}" for i in range(len(vectors[0]) if vectors else 0))])
            headed = True
        writer.writerows([name, *(f"{value:.7g}" for value in row)] for name, row in zip(names, vectors, strict=True))
        yield out.getvalue().encode()


def as_json(total: int, pages: Iterable[Page]) -> Iterator[bytes]:
    """``[{"name", "vector"}]``."""
    before = "["
    for names, vectors in pages:
        for name, row in zip(names, vectors, strict=True):
            yield (before + json.dumps({"name": name, "vector": list(row)}, ensure_ascii=False)).encode()
            before = ", "
    yield b"[]" if before == "[" else b"]"


FORMATS: dict[str, tuple[Writer, str]] = {
    "npy": (as_npy, "application/octet-stream"),
    "csv": (as_csv, "text/csv; charset=utf-8"),
    "json": (as_json, "application/json"),
}
