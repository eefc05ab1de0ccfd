"""Start-up, memory and resume of the loader over an index of any length.

The index is synthetic: its rows point at a few real records, over and over, so that a corpus of ten million documents
takes the disk of its index alone. Each length is measured in processes of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lcl_core.data import SAMPLE_CORPUS, SampleStream, open_corpus, train_bpe
from lcl_core.data.records import ImageMatch, MatchedDocument, Record, RecordImage
from lcl_core.data.sampling.loader import load_batches
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.index import write_index
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec

_REAL, _REAL_DOCUMENTS = "real", 10
_ROWS_AT_ONCE = 1 << 20
_STARTS = 7
_BUDGET = BatchSpec(tokens=4096, images=64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 1_000_000, 10_000_000], help="documents indexed")
    parser.add_argument("--resume-at", type=int, default=5_000_000, help="document at which the longest is resumed")
    parser.add_argument("--reads", type=int, default=500, help="documents that a process reads before it is weighed")
    parser.add_argument("--repeats", type=int, default=5, help="processes an index; figures are medians")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options), indent=1))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians by length, and how the longest but one compares with the shortest."""
    convert(real_records(), folder / _REAL)
    figures: dict[int, dict[str, float]] = {}
    for length in options.lengths:
        synthetic_corpus(folder / _REAL, folder / str(length), length)
        probes = [_run_probe(folder / str(length), options) for _ in range(options.repeats)]
        figures[length] = {name: round(median(each[name] for each in probes), 4) for name in probes[0]}
    shortest, longest = min(figures), max(figures)
    return {
        "by_documents": figures,
        "first_batch_ratio": {
            length: round(each["first_batch_s"] / figures[shortest]["first_batch_s"], 3)
            for length, each in figures.items()
        },
        "worker_rss_mb_at_longest": figures[longest]["worker_rss_mb"],
        "resume_s_at_longest": figures[longest]["resume_s"],
        "resume_at": min(options.resume_at, longest - 1),
    }


def _run_probe(corpus: Path, options: argparse.Namespace) -> dict[str, float]:
    # not through the benchmarks' command line, which imports the model: a reader of documents does not need it
    code = "import sys; from benchmarks import loader; loader.print_probe(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(corpus), str(options.resume_at), str(options.reads)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def print_probe(folder: str, resume_at: str, reads: str) -> None:
    """The figures of one process, as JSON."""
    print(json.dumps(probe(Path(folder), int(resume_at), int(reads))))


def probe(folder: Path, resume_at: int, reads: int) -> dict[str, float]:
    """In this process: seconds to the first batch, seconds to the first batch from a late position, resident memory
    of this process and of a worker of its.
    """
    tokenizer = train_bpe(["a few words"], 300)
    open_first(folder.parent / _REAL, tokenizer, 0)  # imports and first calls are no part of the start-up
    starts = [open_first(folder, tokenizer, 0) for _ in range(_STARTS)]
    first, stream = median(seconds for seconds, _ in starts), starts[-1][1]
    length = stream.documents_per_epoch
    resumed, stream = open_first(folder, tokenizer, min(resume_at, length - 1))
    for position in range(min(reads, length)):
        stream[position]
    own = _resident_mb("self")
    return {"first_batch_s": first, "resume_s": resumed, "rss_mb": own, "worker_rss_mb": worker_rss(stream, reads)}


def worker_rss(stream: SampleStream, reads: int) -> float:
    """Resident memory of a worker process that has read that many documents, its queue full or nearly so."""
    batches = load_batches(stream, 0, _BUDGET, workers=1)
    documents = 0
    while documents < reads:
        documents += len(next(batches).samples)
    (worker,) = multiprocessing.active_children()
    return _resident_mb(str(worker.pid))


def open_first(folder: Path, tokenizer: Any, position: int) -> tuple[float, SampleStream]:
    """Open a corpus and take the batch at ``position``. Returns: seconds, and the stream."""
    start = time.perf_counter()
    data = DataSpec(sources=({"dataset": "it"},))
    stream = SampleStream(data, {"it": open_corpus(folder)}, tokenizer, 49, 224, 2048, seed=0, cache_bytes=0)
    next(load_batches(stream, position, _BUDGET, workers=0))
    return time.perf_counter() - start, stream


def synthetic_corpus(real: Path, folder: Path, length: int) -> None:
    """A corpus of ``length`` documents whose rows point at the records of ``real`` in turn."""
    corpus = open_corpus(real)
    assert isinstance(corpus, ShardedCorpus)
    rows = np.array(corpus.index.rows)
    rows_at_once = _ROWS_AT_ONCE // len(rows) * len(rows)  # whole cycles
    cycle = corpus.index.similarities
    folder.mkdir()
    shutil.copytree(real / "shards", folder / "shards")  # no link: a corpus whose files lead out of it is refused

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, length, rows_at_once):
            part = rows[np.arange(start, min(start + rows_at_once, length)) % len(rows)]
            yield part, np.resize(cycle, int(part["matches"].sum(dtype=np.int64)))

    header = corpus.index.header
    write_index(folder, parts(), [group for group, _ in header.groups], header.shards)


def real_records() -> Iterator[Record]:
    """Documents of the sample corpus."""
    corpus = open_corpus(SAMPLE_CORPUS)
    for number in range(_REAL_DOCUMENTS):
        document = corpus.documents[number]
        matches = [
            ImageMatch(image["image_name"], image["matched_text_index"], image["matched_sim"])
            for image in document["image_info"]
        ]
        names = dict.fromkeys(match.image for match in matches)
        pictures = tuple(RecordImage(name, lambda name=name: corpus.image_bytes(name)) for name in names)  # type: ignore[misc]
        yield Record(str(number), MatchedDocument(tuple(document["text_list"]), tuple(matches)), pictures)


def _resident_mb(process: str) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6
