"""An index in a collection's directory: building, recall, latency at a steady rate and with filters, memory.

Vectors are those of ``python -m benchmarks collection``. The figures of searching are those of a process of its own,
which searches as a collection does: what the index proposes is ranked again by the vectors, memory-mapped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collection import peak_gib, vectors
from lcl_core.collections.vector_index import ExternalIndex, map_single_rows, nearest
from lcl_core.common.errors import UserError
from lcl_core.vector_indexes import INDEXES, IndexLocation, VectorBatch, VectorIndex

_VECTORS = "vectors.f16"  # beside the index: all rows
_THREADS = 16  # that wait for answers, so that a slow one holds up none that is due
_SHARES = (0.01, 0.3)  # of the rows, those that a filter leaves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = [name for name, kind in INDEXES.items() if kind.writer == "job"]
    parser.add_argument("--index", choices=kinds, default=kinds[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--intrinsic", type=int, default=32, help="dimensions that the vectors really have")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50.0, help="queries a second")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="folder for the index, which stays; one that is there is searched alone"
    )


def main(options: argparse.Namespace) -> None:
    if min(options.rows, options.width, options.intrinsic, options.queries, options.k) < 1 or options.rate <= 0:
        raise UserError("every size must be positive", code="bad_option")
    with tempfile.TemporaryDirectory(prefix="lcl-bench-index-") as folder:
        print(json.dumps(measure(options.out or Path(folder) / "index", options), indent=1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build the index and search it; or only search the one that is there."""
    report: dict[str, Any] = {"index": options.index, "rows": options.rows, "width": options.width}
    if not folder.exists():
        folder.mkdir(parents=True)
        _write_vectors(folder, options)
        start, busy = time.perf_counter(), time.process_time()
        _index(folder, options).build("images", _batches(folder, options))
        report["build_seconds"] = round(time.perf_counter() - start, 1)
        report["build_cpu_seconds"] = round(time.process_time() - busy, 1)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != _VECTORS)
    report["gib_on_disk"] = round(size / 2**30, 3)
    report["built"] = _searched(folder, options)
    return report


def search(folder: str, options: str) -> None:
    """Print the figures of searching all vectors in this process."""
    asked_for = argparse.Namespace(**json.loads(options))
    before, known = peak_gib(), _mapped(Path(folder), asked_for)
    total = len(known)
    index = _index(Path(folder), asked_for)
    product = ExternalIndex(index, "images", known, map_single_rows(Path(folder) / _VECTORS, known))
    queries = np.concatenate(list(vectors(asked_for.queries, asked_for.width, asked_for.intrinsic, asked_for.seed, 1)))
    product.nearest(queries[0], asked_for.k)
    ask = partial(product.nearest, k=asked_for.k)
    figures: dict[str, Any] = {
        "one_at_a_time": _one_by_one(ask, queries)
    }  # it also loads what the index keeps in memory
    figures["steady"] = _steady(ask, queries, asked_for.rate)
    figures |= {"rss_gib": round(peak_gib(), 3), "rss_gib_before": round(before, 3)}
    figures["anonymous_gib"] = round(_anonymous_gib(), 3)
    for share in _SHARES:
        kept = np.sort(np.random.default_rng(0).choice(total, max(1, int(share * total)), replace=False))
        asked = queries[: max(1, len(queries) // 5)]
        figures[f"filter_{share:g}"] = _one_by_one(partial(product.nearest, k=asked_for.k, rows=kept), asked)
    figures[f"recall_at_{asked_for.k}"] = _recall(product, known, queries[:200], asked_for.k)
    last = known[-1].astype(np.float32)
    figures["last_row_is_found"] = bool(product.nearest(last / np.linalg.norm(last), 1)[0][0] == total - 1)
    print(json.dumps(figures))


def _searched(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    fields = json.dumps({name: value for name, value in vars(options).items() if name != "out"}, default=str)
    code = "import sys; from benchmarks.vector_index import search; search(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(folder), fields]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _steady(ask: Callable[[np.ndarray], Any], queries: np.ndarray, rate: float) -> dict[str, float]:
    """Milliseconds from the moment a query was due to its answer."""
    start = time.perf_counter() + 0.1

    def one(number: int) -> float:
        due = start + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        ask(queries[number])
        return time.perf_counter() - due

    with ThreadPoolExecutor(_THREADS) as threads:
        return {"offered_per_s": rate, **_percentiles(list(threads.map(one, range(len(queries)))))}


def _one_by_one(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> dict[str, float]:
    times = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        times.append(time.perf_counter() - start)
    return _percentiles(times)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}_ms": round(1e3 * float(np.percentile(seconds, share)), 2) for share in (50, 99)}


def _recall(index: ExternalIndex, known: np.ndarray, queries: np.ndarray, k: int) -> float:
    """Share of the nearest by one pass over all vectors that the answers have."""
    shares = [len(np.intersect1d(index.nearest(query, k)[0], nearest(known, query, k)[0])) / k for query in queries]
    return round(float(np.mean(shares)), 4)


def _anonymous_gib() -> float:
    """This program's resident memory without mapped files, whose pages the system takes back when it needs them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**20


def _index(folder: Path, options: argparse.Namespace) -> VectorIndex:
    location = IndexLocation(dim=options.width, directory=folder)
    return INDEXES[options.index].index_class().at(location)


def _write_vectors(folder: Path, options: argparse.Namespace) -> None:
    with (folder / _VECTORS).open("wb") as file:
        for chunk in vectors(options.rows, options.width, options.intrinsic, options.seed):
            file.write(chunk.astype(np.float16).tobytes())


def _mapped(folder: Path, options: argparse.Namespace) -> np.ndarray:
    return np.memmap(folder / _VECTORS, np.float16, "r").reshape(-1, options.width)


def _batches(folder: Path, options: argparse.Namespace) -> Iterator[VectorBatch]:
    known = _mapped(folder, options)
    for start in range(0, len(known), 10_000):
        rows = range(start, min(start + 10_000, len(known)))
        yield rows, [f"{row}.png" for row in rows], np.asarray(known[rows.start : rows.stop])
