"""Documents from storage where every read takes a while, in each order: wait of a training step, rate, requests, bytes.

The storage is fsspec's memory with a pause before each range. A step is a pause too: the cores decode, as beside a GPU.
Then as many batches are taken without steps. Requests and bytes are all that were made, those for blocks that have been
fetched ahead and are not read any more too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from fsspec.implementations.memory import MemoryFileSystem

from lcl_core.data import SAMPLE_CORPUS, SampleStream, open_corpus, train_bpe
from lcl_core.data.records import ImageMatch, MatchedDocument, Record, RecordImage
from lcl_core.data.sampling.loader import LoaderPool, load_batches
from lcl_core.data.sampling.packing import DocumentBatch
from lcl_core.data.shards.convert import convert
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec
from lcl_core.train.train_step import prefetch

_URL = "memory://remote-loader/corpus"
_DOCUMENTS = 10
_WARM_UP = 5  # batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--latency", type=float, default=0.040, help="seconds before each range")
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--step", type=float, default=0.25, help="seconds of a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=64, help="documents of one image in a batch")
    parser.add_argument("--orders", nargs="+", choices=("full", "blocks"), default=["full", "blocks"])
    parser.add_argument("--window-blocks", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=300, help="times that the sample's documents are in the corpus")
    parser.add_argument("--size", type=int, default=64, help="side of an image, pixels")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LCL_DATA_CACHE": folder, "LCL_DATA_CACHE_BYTES": "0"}
        convert(itertools.chain.from_iterable(sample_records() for _ in range(options.repeats)), _URL)
        traffic = slow_down(options.latency)
        orders = {order: measure(options, order, traffic) for order in options.orders}
        print(json.dumps(vars(options) | {"orders": orders}, indent=1))


def sample_records() -> Iterator[Record]:
    """The first documents of the sample corpus."""
    corpus = open_corpus(SAMPLE_CORPUS)
    for number in range(_DOCUMENTS):
        document = corpus.documents[number]
        matches = [
            ImageMatch(image["image_name"], image["matched_text_index"], image["matched_sim"])
            for image in document["image_info"]
        ]
        names = dict.fromkeys(match.image for match in matches)
        images = tuple(RecordImage(name, partial(corpus.image_bytes, name)) for name in names)
        yield Record(str(number), MatchedDocument(tuple(document["text_list"]), tuple(matches)), images)


class Traffic:
    """Ranges of shards, and their bytes, that all processes that are forked later request."""

    def __init__(self) -> None:
        self._requests, self._bytes = multiprocessing.Value("q"), multiprocessing.Value("q")

    def add(self, size: int) -> None:
        for value, more in ((self._requests, 1), (self._bytes, size)):
            with value.get_lock():
                value.value += more

    def read(self) -> tuple[int, int]:
        return self._requests.value, self._bytes.value


def slow_down(latency: float) -> Traffic:
    """Pause before each range of fsspec's memory, and count ranges of shards."""
    cat_file, traffic = MemoryFileSystem.cat_file, Traffic()

    def late(self: Any, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        time.sleep(latency)
        data: bytes = cat_file(self, path, start=start, end=end, **more)
        if path.endswith(".tar"):
            traffic.add(len(data))
        return data

    MemoryFileSystem.cat_file = late
    return traffic


def measure(options: argparse.Namespace, order: str, traffic: Traffic) -> dict[str, Any]:
    """The share of waiting, after the first few batches, the rate without steps, and what was requested for it."""
    blocks = {"order": order, "window_blocks": options.window_blocks}
    data = DataSpec(sources=({"dataset": "it"},), max_images=1, **(blocks if order == "blocks" else {}))
    corpus = ShardedCorpus.open(_URL)
    tokens = (options.size // 16) ** 2
    tokenizer = train_bpe(["a few words"], 300)
    stream = SampleStream(data, {"it": corpus}, tokenizer, tokens, options.size, 2048, seed=0, cache_bytes=0)
    before, waited = traffic.read(), 0.0
    budget = BatchSpec(tokens=options.images * 512, images=options.images)
    taken: list[DocumentBatch] = []
    with (
        LoaderPool(stream.corpora, options.workers) as pool,
        prefetch(load_batches(stream, 0, budget, pool, 16), torch.device("cuda")) as batches,
    ):
        for number in range(_WARM_UP + options.steps):
            start = time.perf_counter()
            taken.append(next(batches))
            if number >= _WARM_UP:
                waited += time.perf_counter() - start
            time.sleep(options.step)
        start = time.perf_counter()
        taken += itertools.islice(batches, options.steps)
        seconds = time.perf_counter() - start
        requests, size = (after - each for after, each in zip(traffic.read(), before, strict=True))
    numbers = [int(sample.id.rpartition(":")[2]) for batch in taken for sample in batch.samples]
    rate = sum(len(batch.samples) for batch in taken[-options.steps :]) / seconds
    return {
        "data_wait": round(waited / (waited + options.steps * options.step), 4),
        "documents": len(numbers),
        "documents_per_s_a_loader": round(rate / options.workers, 1),
        "one_read_at_a_time_per_s": round(1 / options.latency, 1),
        "requests_a_document": round(requests / len(numbers), 4),
        "bytes_read_to_needed": round(size / sum(corpus.index.row(number).length for number in numbers), 3),
    }
