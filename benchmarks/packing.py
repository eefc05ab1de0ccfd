"""How full the batches are: tokens in them over the budget, in order and with a look-ahead. No image is read."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.data import SAMPLE_CORPUS, Sample, SampleStream, SkippedSample, clip_tokenizer, open_corpus
from lcl_core.data.sampling.packing import pack_documents
from lcl_core.specs.data import DataSpec
from lcl_core.specs.pretrain import BatchSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, default=SAMPLE_CORPUS, help="its documents are packed")
    parser.add_argument("--tokens", type=int, default=2048, help="budget of a batch, and a document's longest")
    parser.add_argument("--images", type=int, default=64, help="images that a batch may have")
    parser.add_argument("--image-tokens", type=int, default=49, help="patch tokens of an image")
    parser.add_argument("--lookahead", type=int, nargs="+", default=[0, 8, 16, 32, 64], help="documents that may wait")
    parser.add_argument("--batches", type=int, default=400)


def main(options: argparse.Namespace) -> None:
    budget = BatchSpec(tokens=options.tokens, images=options.images)
    sizes = measured_documents(options.corpus, options.image_tokens, options.tokens)
    print(json.dumps(measure(sizes, budget, options.lookahead, options.batches), indent=1))


def measured_documents(corpus: Path, image_tokens: int, context_length: int) -> Iterator[Sample | SkippedSample]:
    """The corpus's documents in training order, with empty images."""
    data, corpora = DataSpec(sources=({"dataset": "it"},)), {"it": open_corpus(corpus)}
    stream = SampleStream(data, corpora, clip_tokenizer(), image_tokens, 1, context_length, seed=0)
    for position in itertools.count():
        size = stream.measure(position)
        if size is None:
            yield SkippedSample(str(position), "not usable")
        else:
            levels = np.zeros((size[0], 3, 0, 0), np.uint8)
            yield Sample(str(position), 0, np.zeros(size[1], np.int32), levels, (0,) * size[0])


def measure(
    stream: Iterator[Sample | SkippedSample], budget: BatchSpec, lookaheads: list[int], batches: int
) -> dict[str, Any]:
    """Efficiency of ``batches`` batches by look-ahead, and the packer's own time."""
    items: list[Sample | SkippedSample] = []
    efficiency, milliseconds = {}, {}
    for lookahead in lookaheads:
        packed = list(itertools.islice(pack_documents(_kept(stream, items), 0, budget, lookahead=lookahead), batches))
        start = time.process_time()
        for _ in itertools.islice(pack_documents(items, 0, budget, lookahead=lookahead), batches):
            pass
        milliseconds[lookahead] = round((time.process_time() - start) / batches * 1e3, 3)
        efficiency[lookahead] = round(sum(batch.tokens for batch in packed) / budget.tokens / batches, 4)
    documents = sum(isinstance(item, Sample) for item in items)
    tokens = sum(len(item.token_ids) for item in items if isinstance(item, Sample))
    return {
        "efficiency_by_lookahead": efficiency,
        "packer_ms_per_batch": milliseconds,
        "mean_tokens_per_document": round(tokens / documents, 1),
        "budget": budget.model_dump(),
        "batches": batches,
    }


def _kept(
    stream: Iterator[Sample | SkippedSample], items: list[Sample | SkippedSample]
) -> Iterator[Sample | SkippedSample]:
    """What is in ``items``, and then the rest of the stream, which goes there too."""
    yield from list(items)
    for item in stream:
        items.append(item)
        yield item
