"""The stream of samples that a run reads: position → sample, a pure function of (data, seed, position)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lcl_core.data.cache import DEFAULT_CACHE_BYTES, ImageCache
from lcl_core.data.corpus import Corpus
from lcl_core.data.interleave import Numerics
from lcl_core.data.order import Mixture
from lcl_core.data.samples import Sample, Skipped
from lcl_core.data.sources import DocumentSource, PairSource, Recipe, Source
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec, SourceSpec

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
        cache_bytes: bound on decoded pictures kept in memory, in each process that reads the stream.

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
    ) -> None:
        self._arguments = (
            data, corpora, tokenizer, num_image_tokens, image_size, context_length, seed, numerics, cache_bytes,
        )  # fmt: skip
        cache = ImageCache(cache_bytes)
        recipe = Recipe(data, tokenizer, num_image_tokens, image_size, context_length, seed, numerics, cache)
        self._sources = [_open_source(recipe, number, spec, corpora) for number, spec in enumerate(data.sources)]
        self._mixture = Mixture([len(source) for source in self._sources], [spec.weight for spec in data.sources], seed)

    def __reduce__(self) -> tuple[type[SampleStream], tuple[Any, ...]]:
        """Another process opens the corpora again."""
        return SampleStream, self._arguments

    @property
    def documents_per_epoch(self) -> int:
        """Items in one pass over every source (pieces where documents are cut)."""
        return sum(len(source) for source in self._sources)

    def __getitem__(self, position: int) -> Sample | Skipped:
        """The sample at ``position`` (from 0), or why there is none."""
        if position < 0:
            raise IndexError(position)
        place = self._mixture[position]
        return self._sources[place.source].sample(place.index, place.epoch)


def _open_source(recipe: Recipe, number: int, spec: SourceSpec, corpora: Mapping[str, Corpus]) -> Source:
    field = f"data.sources.{number}"
    corpus = corpora.get(spec.dataset)
    if corpus is None:
        raise UserError(f"dataset {spec.dataset!r} is not there", code="unknown_dataset", field=f"{field}.dataset")
    if spec.view == "interleaved":
        documents = DocumentSource(recipe, number, spec.dataset, corpus)
        if len(documents) == 0:
            message = f"dataset {spec.dataset!r} has no documents; use its pairs"
            raise UserError(message, code="empty_source", field=f"{field}.view")
        return documents
    pairs = PairSource(recipe, number, spec.dataset, corpus, spec.split)
    if len(pairs) == 0:
        known = ", ".join(corpus.splits()) or "none"
        message = f"dataset {spec.dataset!r} has no captioned images in split {spec.split!r}; its splits: {known}"
        raise UserError(message, code="empty_source", field=f"{field}.split")
    return pairs
