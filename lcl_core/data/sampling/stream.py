"""The stream of samples of a run: position to sample, a pure function of (data, seed, position).

Weights by images or tokens are converted to weights by documents. The mean sizes for that are measured at a fixed
number of positions that no seed changes: they depend on corpus and spec alone and cost the same for any corpus size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.sampling.document_plan import Numerics
from lcl_core.data.sampling.resident_images import ResidentImages
from lcl_core.data.sampling.shuffle import Blocks, FeistelPermutation, Mixture, ReaderShare, SampleIndex
from lcl_core.data.sampling.sources import (
    DEFAULT_CACHE_BYTES,
    VIEWS,
    ImageCache,
    Sample,
    SampleSize,
    SampleSource,
    SkippedSample,
    StreamContext,
)
from lcl_core.data.shards.read_ahead import ReadAhead, WantedBlock
from lcl_core.data.shards.sharded_corpus import ShardedCorpus
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.specs.data import BLOCK_RECORDS, DataSpec, SourceSpec

WeightUnit = Literal["documents", "images", "tokens"]
_MEASURED_ITEMS = 128
READ_AHEAD_BYTES = 2 << 30  # of each training process, for documents fetched ahead in block order


def weights_by_documents(sources: Sequence[SampleSource], weights: Sequence[float], unit: WeightUnit) -> list[float]:
    """Weights by documents that give the sources these shares of ``unit``.

    Raises: UserError where none of the documents measured can be used.
    """
    if unit == "documents":
        return list(weights)
    column = 0 if unit == "images" else 1
    return [
        weight / mean_sample_size(source, f"data.sources.{number}")[column]
        for number, (source, weight) in enumerate(zip(sources, weights, strict=True))
    ]


def mean_sample_size(source: SampleSource, field: str, at_most: int = _MEASURED_ITEMS) -> tuple[float, float]:
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


_MAX_CACHED_ITEMS = 50_000  # of more items, the cache would hold so few that it only costs memory


class SampleStream:
    """Endless: positions run on over the epochs of every source.

    Args:
        data: sources and how documents are laid out.
        corpora: an open corpus for each dataset that ``data`` names.
        num_image_tokens: patch tokens of an image.
        image_size: side of the square input, pixels.
        context_length: tokens a sample may have.
        numerics: "official" for the authors' handling of special tokens in web text.
        cache_bytes: bound on decoded images kept in memory, in each process that reads the stream; of a large
            corpus none are kept.
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
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        document_weights: Sequence[float] | None = None,
        concepts: bool = False,
        resident: Mapping[str, Path] | None = None,
    ) -> None:
        self.corpora = corpora
        self._data = data
        self._ahead: ReadAhead | None = None
        cache = ImageCache(cache_bytes)
        from lcl_core.data.torch_resize import TorchCropper  # torch, which this module does not need otherwise

        context = StreamContext(
            data, tokenizer, num_image_tokens, image_size, context_length, seed, numerics, cache, TorchCropper(),
            concepts, {name: ResidentImages(folder) for name, folder in (resident or {}).items()},
        )  # fmt: skip
        self._sources = [_open_source(context, number, spec, corpora) for number, spec in enumerate(data.sources)]
        corpora_used = [corpora[spec.dataset] for spec in data.sources]
        self._remote = {
            number: corpus
            for number, corpus in enumerate(corpora_used)
            if isinstance(corpus, ShardedCorpus) and corpus.concurrent_reads > 1
        }
        if self.documents_per_epoch > _MAX_CACHED_ITEMS:
            cache.max_bytes = 0
        if document_weights is None:
            document_weights = weights_by_documents(
                self._sources, [spec.weight for spec in data.sources], data.weight_by
            )
        blocks = Blocks(BLOCK_RECORDS, data.window_blocks) if data.order == "blocks" else None
        self._mixture = Mixture(self.source_items, document_weights, seed, blocks)
        self.options: dict[str, Any] = {
            "data": data, "tokenizer": tokenizer, "num_image_tokens": num_image_tokens, "image_size": image_size,
            "context_length": context_length, "seed": seed, "numerics": numerics, "cache_bytes": cache_bytes,
            "document_weights": document_weights, "concepts": concepts, "resident": resident,
        }  # fmt: skip

    def __reduce__(self) -> tuple[Callable[[], SampleStream], tuple[()]]:
        """Another process opens the corpora again."""
        return partial(SampleStream, corpora=self.corpora, **self.options), ()

    @property
    def source_items(self) -> list[int]:
        """Items in one epoch of each source (chunks where documents are cut)."""
        return [len(source) for source in self._sources]

    @property
    def documents_per_epoch(self) -> int:
        """Items in one pass over every source."""
        return sum(self.source_items)

    @property
    def images_per_sample(self) -> int:
        """Most images that a sample of any source has."""
        return max(source.images_per_sample for source in self._sources)

    def __getitem__(self, position: int) -> Sample | SkippedSample:
        """The sample at ``position`` (from 0), or why there is none."""
        index = self._locate(position)
        with self._ahead.reading(position) if self._ahead else nullcontext():
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
        """Whether readers should fetch blocks ahead: in block order, of shards behind a URL."""
        return self._data.order == "blocks" and bool(self._remote)

    def reader(self, position: int, stride: int, readers: int) -> int:
        """Number of the reader, of a rank's, that should read a position (``Mixture.reader``)."""
        return self._mixture.reader(position, stride, readers)

    @contextmanager
    def reading_ahead(self, share: ReaderShare) -> Iterator[None]:
        """While the positions of ``share`` are read, in ascending order: their blocks are fetched before."""
        if not self.reads_blocks:
            yield
            return
        horizon = self._data.window_blocks * BLOCK_RECORDS // 2  # room for a window and a half is used at most
        memory = READ_AHEAD_BYTES // share.readers
        with ReadAhead(self._coming_blocks(share), self._remote.values(), memory, horizon) as self._ahead:
            yield
        self._ahead = None

    def _coming_blocks(self, share: ReaderShare) -> Iterator[WantedBlock]:
        for block in self._mixture.coming_blocks(share, self._remote):
            source, positions = self._sources[block.source], dict[int, list[int]]()
            for position, item in block.items:
                record = source.record(item)
                assert record is not None, "the corpus has shards"
                positions.setdefault(record, []).append(position)
            yield WantedBlock(self._remote[block.source], block.due, positions)

    def _locate(self, position: int) -> SampleIndex:
        if position < 0:
            raise IndexError(position)
        return self._mixture[position]


def _open_source(context: StreamContext, number: int, spec: SourceSpec, corpora: Mapping[str, Corpus]) -> SampleSource:
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
