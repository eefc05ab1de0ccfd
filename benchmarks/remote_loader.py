"""Share of its time that a training step waits for documents from storage where every read takes a while.

The storage is fsspec's memory with a pause before each range. A step is a pause too: the cores decode, as beside a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from benchmarks.loader import real_records
from lcl_core.data import SampleStream, open_corpus, train_bpe
from lcl_core.data.sampling.loader import LoaderPool, load_batches
from lcl_core.data.shards.convert import convert
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec
from lcl_core.train.input_pipeline import Prefetcher

_URL = "memory://remote-loader/corpus"
_WARM_UP = 5  # batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--latency", type=float, default=0.040, help="seconds before each range")
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--step", type=float, default=0.25, help="seconds of a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=64, help="documents of one image in a batch")
    parser.add_argument("--size", type=int, default=64, help="side of an image, pixels")


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LCL_DATA_CACHE": folder, "LCL_DATA_CACHE_BYTES": "0"}
        convert(itertools.chain.from_iterable(real_records() for _ in range(20)), _URL)
        _slow_down(options.latency)
        print(json.dumps(measure(options), indent=1))


def _slow_down(latency: float) -> None:
    cat_file = MemoryFileSystem.cat_file

    def late(self: Any, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        time.sleep(latency)
        return cat_file(self, path, start=start, end=end, **more)

    MemoryFileSystem.cat_file = late


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The share of waiting, and documents a second, after the first few batches."""
    data = DataSpec(sources=({"dataset": "it"},), max_images=1)
    corpora = {"it": open_corpus(_URL)}
    tokens = (options.size // 16) ** 2
    tokenizer = train_bpe(["a few words"], 300)
    stream = SampleStream(data, corpora, tokenizer, tokens, options.size, 2048, seed=0, cache_bytes=0)
    waited, documents = 0.0, 0
    budget = BatchSpec(tokens=options.images * 512, images=options.images)
    with LoaderPool(corpora, options.workers) as pool, Prefetcher(load_batches(stream, 0, budget, pool, 16)) as batches:
        for number in range(_WARM_UP + options.steps):
            start = time.perf_counter()
            batch = next(batches)
            if number >= _WARM_UP:
                waited += time.perf_counter() - start
                documents += len(batch.samples)
            time.sleep(options.step)
    seconds = waited + options.steps * options.step
    return {
        "data_wait": round(waited / seconds, 4),
        "documents_per_s": round(documents / seconds, 1),
        "one_read_at_a_time_per_s": round(options.workers / options.latency, 1),
        **vars(options),
    }
