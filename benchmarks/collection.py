"""Search in a large collection: seconds to make it, recall against one pass over all vectors, queries a second, memory.

The vectors are made up from a seed: a few thousand centres in a plane of ``--intrinsic`` dimensions, points about
them, turned into the full width, and a little noise in every direction. Encoders' vectors are of that kind; points
without any structure have no neighbours worth finding. The figures of searching are those of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.collections.collection import Collection
from lcl_core.collections.vector_index import nearest
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.errors import UserError

_CENTRES, _ABOUT, _NOISE = 2000, 0.6, 0.02
_ROWS_AT_ONCE = 10_000
_ENCODER = "0" * 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--intrinsic", type=int, default=32, help="dimensions that the vectors really have")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--compared", type=int, default=200, help="queries whose answers are compared with one pass")
    parser.add_argument("--clients", type=int, default=2, help="threads that ask")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the collection, which stays; one that is there is used")


def main(options: argparse.Namespace) -> None:
    if min(options.rows, options.width, options.intrinsic, options.compared, options.clients, options.k) < 1:
        raise UserError("every size must be positive", code="bad_option")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.out or Path(folder) / "collection", options), indent=1))


def measure(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the collection unless it is there, then search it."""
    start = time.perf_counter()
    made = not place.exists()
    if made:
        make(place, options)
    seconds = time.perf_counter() - start
    collection = Collection.open(place)
    return {
        "rows": len(collection),
        "width": collection.dim,
        "dtype": collection.manifest.dtype,
        "made_seconds": round(seconds, 1) if made else None,
        "gib_on_disk": round(sum(file.bytes for file in collection.manifest.files.values()) / 2**30, 3),
        f"recall_at_{options.k}": round(recall(collection, options), 4),
        **_searched(place, options),
    }


def make(place: Path, options: argparse.Namespace) -> None:
    """A collection of images without bytes."""
    facts = {"name": "made up", "encoder_hash": _ENCODER, "dataset_hash": "", "dim": options.width}
    with CollectionWriter(place, dtype="f16", **facts) as writer:
        row = 0
        for chunk in vectors(options.rows, options.width, options.intrinsic, options.seed):
            items = [CollectionItem(f"{number}.png", b"", "image/png") for number in range(row, row + len(chunk))]
            writer.add_items(items, chunk)
            row += len(chunk)
        writer.link()


def vectors(rows: int, width: int, intrinsic: int, seed: int, draw: int = 0) -> Iterator[np.ndarray]:
    """f32 [≤ 10,000, width] at a time, of length 1. Another ``draw`` gives other points about the same centres."""
    fixed, drawn = np.random.default_rng(seed), np.random.default_rng([seed, draw])
    centres = fixed.standard_normal((_CENTRES, intrinsic), np.float32)
    turn = fixed.standard_normal((intrinsic, width), np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, rows - start)
        about = _ABOUT * drawn.standard_normal((count, intrinsic), np.float32)
        points = (centres[drawn.integers(_CENTRES, size=count)] + about) @ turn
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        points += _NOISE * drawn.standard_normal((count, width), np.float32)
        yield points / np.linalg.norm(points, axis=1, keepdims=True)


def recall(collection: Collection, options: argparse.Namespace) -> float:
    """Share of the true nearest that the answers hold."""
    rows = collection.vectors()[1]
    asked = _questions(collection.dim, options, options.compared)
    names = [[hit.metadata["image"] for hit in collection.search(query, options.k)] for query in asked]
    true = [{f"{row}.png" for row in nearest(rows, query, options.k)[0]} for query in asked]
    return float(
        np.mean([len(right.intersection(given)) / len(right) for given, right in zip(names, true, strict=True)])
    )


def search(place: str, options: str) -> None:
    """Print the figures of searching in this process."""
    asked_for = argparse.Namespace(**json.loads(options))
    before = peak_gib()
    collection = Collection.open(place)
    queries = _questions(collection.dim, asked_for, asked_for.queries)

    def ask(query: np.ndarray) -> float:
        start = time.perf_counter()
        collection.search(query, asked_for.k)
        return time.perf_counter() - start

    with ThreadPoolExecutor(asked_for.clients) as clients:
        list(clients.map(ask, queries))  # the file's pages come from the disk once
        start = time.perf_counter()
        times = np.array(list(clients.map(ask, queries)))
        seconds = time.perf_counter() - start
    figures = {
        "queries_per_s": round(len(queries) / seconds, 1),
        "p50_ms": round(float(np.percentile(times, 50)) * 1e3, 2),
        "p99_ms": round(float(np.percentile(times, 99)) * 1e3, 2),
        "clients": asked_for.clients,
        "rss_gib": round(peak_gib(), 3),
        "rss_gib_before": round(before, 3),
    }
    print(json.dumps(figures))


def peak_gib() -> float:
    """This program's peak resident set, mapped files included. (``ru_maxrss`` begins with that of who started it.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def _questions(width: int, options: argparse.Namespace, count: int) -> np.ndarray:
    return np.concatenate(list(vectors(count, width, options.intrinsic, options.seed, draw=1)))


def _searched(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if isinstance(value, int)}
    code = "import sys; from benchmarks import collection; collection.search(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(place), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the process that searches failed: {done.stderr[-2000:]}", code="probe_failed")
    return dict(json.loads(done.stdout))
