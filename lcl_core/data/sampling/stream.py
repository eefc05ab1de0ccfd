"""The stream of samples of a run: position to sample, a pure function of (data, seed, position).

Weights by images or tokens are converted to weights by documents. The mean sizes for that are measured at a fixed
number of positions that no seed changes: they depend on corpus and spec alone and cost the same for any corpus size.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.sampling.document_plan import Numerics
from lcl_core.data.sampling.resident_images import ResidentImages
from lcl_core.data.sampling.shuffle import Blocks, FeistelPermutation, Mixture, SampleIndex
from lcl_core.data.sampling.sources import (
    VIEWS,
    Sample,
    SampleSize,
    SampleSource,
    SkippedSample,
    StreamContext,
)
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.specs.data import BLOCK_RECORDS, DataSpec, SourceSpec

_MEASURED_ITEMS = 128
BLOCK_BYTES = 2 << 30  # of each training process, for blocks of documents in memory
_REQUESTS = 8  # for blocks, under way at once
_LEAD_TURNS = 8  # times that each block of a window is read while the blocks of the next one are fetched


def mean_sample_size(source: SampleSource[Any], field: str, at_most: int = _MEASURED_ITEMS) -> tuple[float, float]:
    """Mean images and tokens of an item, over items that give no sample too, since they take positions as well.

    Raises: UserError ``no_data`` where no item gives a sample.
    """
    order = FeistelPermutation(len(source))
    count = min(at_most, len(source))
    sizes: list[SampleSize] = [source.measure(order[index]) or (0, 0) for index in range(count)]
    images, tokens = (sum(column) / count for column in zip(*sizes, strict=True))
    if images == 0:
        message = f"none of {count} documents can be used, so their size is not known; weigh by documents"
        raise UserError(message, code="no_data", field=field)
    return images, tokens


class RemoteBlocks:
    """Blocks of shards in object storage, each fetched at once a little before its first record is read.

    A record leaves the memory when the last of its items has been read. What has no room there is read by a request of
    its own. Thread-safe; positions are read in about ascending order.

    Args:
        corpora: by number of the source; others have no blocks.
        window: blocks that are mixed at a time.
        max_bytes: bound on the records in memory.

    Attributes:
        lead: how many positions before its first one a block is fetched.
    """

    def __init__(
        self, sources: Sequence[SampleSource[Any]], corpora: Mapping[int, ShardedCorpus], window: int, max_bytes: int
    ) -> None:
        self._sources, self._corpora, self._window, self._max_bytes = sources, corpora, window, max_bytes
        self.lead = window * _LEAD_TURNS
        self._blocks: OrderedDict[tuple[int, int, int], _Block] = OrderedDict()  # the last used ones last
        self._bytes = 0
        self._block_bytes = 0  # of the block that was looked up last
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_REQUESTS, "blocks")

    def fetch(self, at: SampleIndex, position: int) -> _Block | None:
        """The block of an item, which is requested unless it is there; None: it has no room, or lies on disk."""
        if at.source not in self._corpora:
            return None
        source, corpus, number = self._sources[at.source], self._corpora[at.source], at.index // BLOCK_RECORDS
        key = (at.source, at.epoch, number)
        with self._lock:
            while self._blocks and position - next(iter(self._blocks.values())).used > self.lead + 2 * self._window:
                self._bytes -= self._blocks.popitem(last=False)[1].bytes  # other readers have read the rest
            if key not in self._blocks:
                if self._bytes + self._block_bytes > self._max_bytes:  # as the last one: to find its records takes time
                    return None
                items = range(number * BLOCK_RECORDS, min((number + 1) * BLOCK_RECORDS, len(source)))
                left = Counter(record for item in items if (record := source.record(item)) is not None)
                size = sum(corpus.index.row(record).length for record in left)
                self._block_bytes = min(size, self._max_bytes)
                if self._bytes + size > self._max_bytes:
                    return None
                self._bytes += size
                records = self._threads.submit(corpus.read_records, list(left))
                self._blocks[key] = _Block(records, left, size)
            block = self._blocks[key]
            block.used = max(block.used, position)
            self._blocks.move_to_end(key)
            return block

    def load_record(self, at: SampleIndex, position: int) -> None:
        """Wait for the record of an item, and give it to the corpus, whose next reads in this thread take it."""
        block, record = self.fetch(at, position), self._sources[at.source].record(at.index)
        if block is None or record is None:
            return
        try:
            data = block.records.result().get(record)
            if data is None:
                return
            self._corpora[at.source].keep_record(record, data)
        except UserError:
            return  # the record is read by itself, and says what is wrong with it
        with self._lock:
            block.left[record] -= 1
            if block.left[record] == 0 and block.records.result().pop(record, None) is not None:
                block.bytes -= len(data)
                self._bytes -= len(data)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Block:
    """Attributes: ``left``: items of each record that have not been read; ``used``: the last position that did."""

    records: Future[dict[int, bytes]]
    left: Counter[int]
    bytes: int
    used: int = 0


class SampleStream:
    """Endless: positions run on over the epochs of every source.

    Args:
        data: sources and how documents are laid out.
        corpora: an open corpus for each dataset that ``data`` names.
        num_image_tokens: patch tokens of an image.
        image_size: side of the square input, pixels.
        context_length: tokens a sample may have.
        numerics: "official" for the authors' handling of special tokens in web text.
        block_bytes: bound on records of blocks from object storage that this process keeps in memory.
        document_weights: weights of the sources by documents, where they have been measured before.
        concepts: whether samples of documents have concepts. Of a folder or zip each process then reads all pairs.
        resident: folders of decoded images by dataset (``resident_images``), which are read instead of the corpora's.

    Attributes:
        options: keyword arguments that make the same stream over the same corpora in another process.

    Raises:
        UserError: a dataset is not in ``corpora``, or a source has no items; with the spec field.
    """

    def __init__(
        self,
        data: DataSpec,
        corpora: Mapping[str, Corpus],
        tokenizer: Tokenizer,
        num_image_tokens: int,
        image_size: int,
        context_length: int,
        seed: int,
        numerics: Numerics = "fixed",
        block_bytes: int = BLOCK_BYTES,
        document_weights: Sequence[float] | None = None,
        concepts: bool = False,
        resident: Mapping[str, Path] | None = None,
    ) -> None:
        self.corpora = corpora
        from lcl_core.data.torch_resize import TorchCropper  # torch, which this module does not need otherwise

        context = StreamContext(
            data, tokenizer, num_image_tokens, image_size, context_length, seed, numerics, TorchCropper(),
            concepts, {name: ResidentImages(folder) for name, folder in (resident or {}).items()},
        )  # fmt: skip
        self._sources = [_open_source(context, number, spec, corpora) for number, spec in enumerate(data.sources)]
        if document_weights is None:
            document_weights = [spec.weight for spec in data.sources]
            if data.weight_by != "documents":
                column = 0 if data.weight_by == "images" else 1
                document_weights = [
                    weight / mean_sample_size(source, f"data.sources.{number}")[column]
                    for number, (source, weight) in enumerate(zip(self._sources, document_weights, strict=True))
                ]
        blocks = Blocks(BLOCK_RECORDS, data.window_blocks) if data.order == "blocks" else None
        self._mixture = Mixture(self.source_items, document_weights, seed, blocks)
        remote = {
            number: corpus
            for number, spec in enumerate(data.sources)
            if isinstance(corpus := corpora[spec.dataset], ShardedCorpus) and corpus.concurrent_reads > 1
        }
        in_blocks = blocks is not None and remote
        self._blocks = RemoteBlocks(self._sources, remote, data.window_blocks, block_bytes) if in_blocks else None
        self.options: dict[str, Any] = {
            "data": data, "tokenizer": tokenizer, "num_image_tokens": num_image_tokens, "image_size": image_size,
            "context_length": context_length, "seed": seed, "numerics": numerics, "block_bytes": block_bytes,
            "document_weights": document_weights, "concepts": concepts, "resident": resident,
        }  # fmt: skip

    @property
    def source_items(self) -> list[int]:
        """Items in one epoch of each source (chunks where documents are cut)."""
        return [len(source) for source in self._sources]

    @property
    def documents_per_epoch(self) -> int:
        """Items in one pass over every source."""
        return sum(self.source_items)

    def __getitem__(self, position: int) -> Sample | SkippedSample:
        """The sample at ``position`` (from 0), or why there is none."""
        index = self._locate(position)
        if self._blocks is not None:
            self._blocks.fetch(self._locate(position + self._blocks.lead), position + self._blocks.lead)
            self._blocks.load_record(index, position)
        sample = self._sources[index.source].sample(index.index, index.epoch)
        return replace(sample, position=position) if isinstance(sample, Sample) else sample

    def measure(self, position: int) -> SampleSize | None:
        """Images and tokens of an item as the first epoch lays it out, its images not read and assumed readable."""
        index = self._locate(position)
        return self._sources[index.source].measure(index.index)

    def labels(self, position: int) -> Mapping[str, str]:
        """Labels of the item at ``position`` by kind. Raises: UserError where it cannot be read."""
        index = self._locate(position)
        return self._sources[index.source].labels(index.index)

    @property
    def reads_blocks(self) -> bool:
        """Whether whole blocks are fetched: in block order, of shards behind a URL."""
        return self._blocks is not None

    def reader(self, position: int, stride: int, readers: int) -> int:
        """Which of a rank's loader processes should read a position (``Mixture.reader``)."""
        return self._mixture.reader(position, stride, readers)

    def close(self) -> None:
        """Fetch nothing ahead any more."""
        if self._blocks is not None:
            self._blocks.close()

    def _locate(self, position: int) -> SampleIndex:
        if position < 0:
            raise IndexError(position)
        return self._mixture[position]


def _open_source(
    context: StreamContext, number: int, spec: SourceSpec, corpora: Mapping[str, Corpus]
) -> SampleSource[Any]:
    field = f"data.sources.{number}"
    corpus = corpora.get(spec.dataset)
    if corpus is None:
        raise UserError(f"dataset {spec.dataset!r} is not there", code="not_found", field=f"{field}.dataset")
    source = VIEWS[spec.view](context, number, spec, corpus)
    if len(source) == 0 and spec.view == "pairs":
        known = ", ".join(corpus.splits()) or "none"
        message = f"dataset {spec.dataset!r} has no captioned images in split {spec.split!r}; its splits: {known}"
        raise UserError(message, code="no_data", field=f"{field}.split")
    if len(source) == 0:
        message = f"dataset {spec.dataset!r} has no documents; use its pairs"
        raise UserError(message, code="no_data", field=f"{field}.view")
    return source
