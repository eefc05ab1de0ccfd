"""The stream of samples that a run reads: position → sample, a pure function of (data, seed, position)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lcl_core.data.augment import PILLOW, Cropper
from lcl_core.data.cache import DEFAULT_CACHE_BYTES, ImageCache
from lcl_core.data.corpus import Corpus
from lcl_core.data.interleave import Numerics
from lcl_core.data.order import Mixture, Place
from lcl_core.data.recipe import Recipe
from lcl_core.data.samples import Sample, Skipped
from lcl_core.data.sources import VIEWS, Size, Source
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.weights import document_weights
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec, SourceSpec

_MOST_CACHED = 50_000  # of more items, the cache would hold so few that it only takes memory

__all__ = ["Sample", "SampleStream", "Skipped"]


class SampleStream:
    """Endless: positions run on over the epochs of every source.

    Args:
        data: sources and how documents are laid out.
        corpora: an open corpus for each dataset that ``data`` names.
        num_image_tokens: patch tokens an image takes.
        image_size: side of the square input, pixels.
        context_length: tokens a sample may have.
        numerics: "official" for the authors' handling of special tokens in web text.
        cache_bytes: bound on decoded pictures kept in memory, in each process that reads the stream; of a large
            corpus none are kept.
        rank, world: this reader is the ``rank``-th of ``world`` that share the stream: its position p is position
            p * world + rank of the whole, so shares are disjoint, need no talk, and together leave nothing out.

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
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        self._arguments = (
            data, corpora, tokenizer, num_image_tokens, image_size, context_length, seed, numerics, cache_bytes,
            rank, world,
        )  # fmt: skip
        self.data, self.rank, self.world = data, rank, world
        cache = ImageCache(cache_bytes)
        recipe = Recipe(
            data,
            tokenizer,
            num_image_tokens,
            image_size,
            context_length,
            seed,
            numerics,
            cache,
            _cropper(data),
        )
        self._sources = [_open_source(recipe, number, spec, corpora) for number, spec in enumerate(data.sources)]
        if self.documents_per_epoch > _MOST_CACHED:
            cache.max_bytes = 0
        weights = document_weights(self._sources, [spec.weight for spec in data.sources], data.weight_by)
        self._mixture = Mixture([len(source) for source in self._sources], weights, seed)

    def __reduce__(self) -> tuple[type[SampleStream], tuple[Any, ...]]:
        """Another process opens the corpora again."""
        return SampleStream, self._arguments

    @property
    def documents_per_epoch(self) -> int:
        """Items in one pass over every source (pieces where documents are cut), of all ranks together."""
        return sum(len(source) for source in self._sources)

    def __getitem__(self, position: int) -> Sample | Skipped:
        """The sample at ``position`` (from 0) of this rank, or why there is none."""
        place = self._place(position)
        sample = self._sources[place.source].sample(place.index, place.epoch)
        return replace(sample, position=self._whole(position)) if isinstance(sample, Sample) else sample

    def measure(self, position: int) -> Size | None:
        """Images and tokens of an item as the first epoch lays it out, its pictures not read and taken for readable."""
        place = self._place(position)
        return self._sources[place.source].measure(place.index)

    def _place(self, position: int) -> Place:
        if position < 0:
            raise IndexError(position)
        return self._mixture[self._whole(position)]

    def _whole(self, position: int) -> int:
        """The position in the stream of all ranks together."""
        return position * self.world + self.rank


def _cropper(data: DataSpec) -> Cropper:
    if not data.fast_decode:
        return PILLOW
    from lcl_core.data.resizing import VectorCropper  # torch, which this module does without otherwise

    return VectorCropper()


def _open_source(recipe: Recipe, number: int, spec: SourceSpec, corpora: Mapping[str, Corpus]) -> Source:
    field = f"data.sources.{number}"
    corpus = corpora.get(spec.dataset)
    if corpus is None:
        raise UserError(f"dataset {spec.dataset!r} is not there", code="unknown_dataset", field=f"{field}.dataset")
    source = VIEWS[spec.view](recipe, number, spec, corpus)
    if len(source) == 0 and spec.view == "pairs":
        known = ", ".join(corpus.splits()) or "none"
        message = f"dataset {spec.dataset!r} has no captioned images in split {spec.split!r}; its splits: {known}"
        raise UserError(message, code="empty_source", field=f"{field}.split")
    if len(source) == 0:
        message = f"dataset {spec.dataset!r} has no documents; use its pairs"
        raise UserError(message, code="empty_source", field=f"{field}.view")
    return source
