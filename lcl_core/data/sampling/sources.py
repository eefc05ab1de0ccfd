"""Views of a corpus as numbered samples: documents (or chunks of them), captioned images, and matched pairs.

A matched pair is an image of a matched document with its sentence. Every random choice comes from a generator seeded
by (seed, source, epoch, item), so an item's sample is a pure function of these.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.corpus.base import CaptionPairs, Corpus, Documents
from lcl_core.data.image_decoding import CropNeed
from lcl_core.data.records import CaptionPair, ImageSubject
from lcl_core.data.sampling.captions import (
    caption_candidates,
    captioned_concept,
    concepts_by_image,
    draw_caption,
    draw_sentences,
    hash_term,
    term_hashes,
)
from lcl_core.data.sampling.document_plan import (
    PAIR_SPECIALS,
    DocumentChunk,
    DocumentPlan,
    MatchedPlan,
    Numerics,
    Placement,
    encode_document,
    image_block,
    plan_document,
    render_pair,
)
from lcl_core.data.sampling.resident_images import ResidentImages
from lcl_core.data.sampling.shuffle import mix64
from lcl_core.data.shards.sharded_corpus import SelectedRecords
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.transforms import PILLOW_CROPPER, Cropper, augment_levels, normalise_levels
from lcl_core.specs.data import DataSpec, SourceSpec

SampleSize = tuple[int, int]  # images, tokens
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One document, ready for the model.

    Attributes:
        id: dataset, file and line, and the chunk if the document was cut.
        source: number of the source in the data spec.
        token_ids: int32 [L], no padding.
        levels: uint8 [k, 3, S, S], one image for each image block, in order.
        tables: for each image the number of the table that normalises it (``transforms.LEVEL_TABLES``).
        left_out: error code of each image that could not be read.
        position: in the stream.
        concepts: for each image a hash of its concept (:func:`hash_term`); empty: none is known.
        terms: of a captioned image: hashes of its name and keywords, and those of which its caption consists.
    """

    id: str
    source: int
    token_ids: np.ndarray
    levels: np.ndarray
    tables: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    position: int = 0
    concepts: tuple[int, ...] = ()
    terms: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def pixels(self) -> np.ndarray:
        """float32 [k, 3, S, S]: the images normalised."""
        return normalise_levels(self.levels, self.tables)


@dataclass(frozen=True, slots=True)
class SkippedSample:
    """An item that gives no sample.

    Attributes:
        reason: one of a few phrases, to be counted.
        detail: the particulars, such as which file could not be read.
        left_out: as in ``Sample``.
    """

    id: str
    reason: str
    detail: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamContext:
    """Settings that all sources of a stream share, and the operations that depend on them.

    Attributes:
        concepts: whether samples of documents have concepts; those of captioned images always have.
        resident: images of datasets that have been decoded and resized, by dataset.
    """

    data: DataSpec
    tokenizer: Tokenizer
    num_image_tokens: int
    image_size: int
    context_length: int
    seed: int
    numerics: Numerics
    cropper: Cropper = PILLOW_CROPPER
    concepts: bool = False
    resident: Mapping[str, ResidentImages] = field(default_factory=dict)

    def draw(self, *key: int) -> random.Random:
        """The generator of (source, epoch, item, …); the same numbers on every machine."""
        return random.Random(mix64(self.seed, *key))  # noqa: S311 - a data order, not a secret

    def tokens(self, text: str | None) -> int:
        """Tokens of a text, or (None) of an image."""
        if text is None:
            return len(image_block(self.tokenizer, self.num_image_tokens))
        return len(self.tokenizer.encode(text, self.numerics == "fixed"))

    def read(
        self, dataset: str, corpus: Corpus, names: Iterable[str]
    ) -> tuple[dict[str, Image.Image], list[UserError]]:
        """The readable images by name, and the errors of the others."""
        need = CropNeed(self.image_size, self.data.augmentation.crop_scale[0], self.data.fit)
        read = self.resident[dataset].read if dataset in self.resident else partial(corpus.read_image, need=need)
        images: dict[str, Image.Image] = {}
        problems: list[UserError] = []
        for name in names:
            try:
                images[name] = read(name)
            except StoreError:
                raise
            except UserError as error:
                problems.append(error)
        return images, problems

    def crop(self, images: Sequence[Image.Image], draw: random.Random) -> tuple[np.ndarray, tuple[int, ...]]:
        """Random crops → [k, 3, S, S] uint8, and the number of each one's table."""
        size, spec = self.image_size, self.data.augmentation
        levels = np.empty((len(images), 3, size, size), np.uint8)
        return levels, tuple(
            augment_levels(image, size, draw, spec, out, self.data.fit, self.cropper)
            for image, out in zip(images, levels, strict=True)
        )

    def encode_pair(self, texts: list[str], draw: random.Random, image_first: float) -> tuple[str, list[int]] | None:
        """One of the texts, drawn, and its tokens in the pair wrapper; None: it has none. ``image_first``: probability.

        Images without a text would all have the same one, and be negatives of each other.
        """
        text, image_first = draw.choice(texts), draw.random() < image_first
        wrapper = self.tokenizer, self.num_image_tokens, self.context_length, image_first, self.numerics
        ids = render_pair(text, *wrapper)
        return (text, ids) if len(ids) > self.num_image_tokens + PAIR_SPECIALS else None


class SampleSource(ABC, Generic[T]):
    """Numbered items of one entry of the mixture. ``T`` is what an item is before its images are read."""

    def __init__(
        self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus, rows: Documents | CaptionPairs
    ) -> None:
        self._context, self._number, self._dataset, self._corpus = context, number, spec.dataset, corpus
        self._rows: Any = rows
        self._captions = spec.captions
        own = spec.image_first_probability
        self._image_first = context.data.image_first_probability if own is None else own

    @abstractmethod
    def __len__(self) -> int:
        """Items in an epoch."""

    @abstractmethod
    def _locate(self, item: int) -> tuple[int, int | None]:
        """The row of an item, and the number of its chunk where documents are cut."""

    @abstractmethod
    def _read(self, row: int, chunk: int | None, epoch: int, with_images: bool) -> T | str:
        """An item, or why it gives no sample. ``with_images``: they are read next, so along with it."""

    @abstractmethod
    def _make(self, name: str, found: T) -> Sample | SkippedSample: ...

    @abstractmethod
    def _size(self, found: T) -> SampleSize | None: ...

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        row, chunk = self._locate(item)
        suffix = "" if chunk is None else f"#{chunk + 1}"
        name = f"{self._dataset}:{self._rows.location(row)}{suffix}"
        try:
            found = self._read(row, chunk, epoch, True)
        except StoreError:
            raise
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        return SkippedSample(name, found) if isinstance(found, str) else self._make(name, found)

    def measure(self, item: int) -> SampleSize | None:
        """Images and tokens of an item, its images not read and assumed readable; None: it gives no sample."""
        try:
            found = self._read(*self._locate(item), 0, False)
        except StoreError:
            raise
        except UserError:
            return None
        return None if isinstance(found, str) else self._size(found)

    def record(self, item: int) -> int | None:
        """Number of the record that holds an item, in a corpus of shards; None in any other."""
        return self._rows.selection[self._locate(item)[0]] if isinstance(self._rows, SelectedRecords) else None

    def labels(self, item: int) -> Mapping[str, str]:
        """Labels of an item by kind; documents have none. Raises: UserError where it cannot be read."""
        return {}

    def _draw(self, *key: int) -> random.Random:
        return self._context.draw(self._number, *key)

    def _plan(self, index: int, epoch: int, chunk: DocumentChunk | None, with_images: bool) -> DocumentPlan | None:
        """The layout of a document. Raises: UserError."""
        document = self._rows[index] if with_images else self._rows.describe(index)
        composed = self._captions != "as_written"
        captions: dict[Placement, str] = {}
        if composed or self._context.concepts:
            document = self._corpus.with_subjects(document)
        if composed:  # all chunks of the document draw the same captions
            document, captions = draw_sentences(document, self._draw(epoch, index, 0, 1), self._captions)
        plan = plan_document(document, self._context.data, self._draw(epoch, index, 0), chunk, captions)
        if isinstance(plan, MatchedPlan) and self._context.concepts:
            return replace(plan, concepts=concepts_by_image(document, captions))
        return plan


@dataclass(frozen=True, slots=True)
class _LaidOut:
    plan: DocumentPlan
    draw: random.Random


class DocumentSource(SampleSource[_LaidOut]):
    """The documents of a corpus, whole or cut into chunks."""

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus, corpus.documents)
        self._max_images = context.data.piece_images
        self._chunks = None if self._max_images is None else corpus.chunks(context.data, self._max_images)

    def __len__(self) -> int:
        return len(self._rows) if self._chunks is None else len(self._chunks)

    def _locate(self, item: int) -> tuple[int, int | None]:
        return (item, None) if self._chunks is None else self._chunks[item]

    def _read(self, row: int, chunk: int | None, epoch: int, with_images: bool) -> _LaidOut | str:
        part, context = None, self._context
        if chunk is not None and self._max_images is not None:
            part = DocumentChunk(chunk, self._max_images, context.context_length - 2, context.tokens)
        plan = self._plan(row, epoch, part, with_images)
        if plan is None:
            return "too few usable images"
        return _LaidOut(plan, self._draw(epoch, row, 1 if chunk is None else chunk + 2))

    def _make(self, name: str, found: _LaidOut) -> Sample | SkippedSample:
        images, problems = self._context.read(self._dataset, self._corpus, found.plan.images)
        encoded = self._encode(found, images)
        detail, codes = _describe(problems)
        if encoded is None:
            reason = "too few readable images" if problems else "too few images fit the context"
            return SkippedSample(name, reason, detail, codes)
        ids, kept = encoded
        cropped = self._context.crop([images[image] for image in kept], found.draw)
        concepts = tuple(hash_term(found.plan.concepts.get(image, "")) for image in kept)
        return Sample(name, self._number, np.array(ids, np.int32), *cropped, codes, concepts=concepts)

    def _size(self, found: _LaidOut) -> SampleSize | None:
        encoded = self._encode(found, found.plan.images)
        return None if encoded is None else (len(encoded[1]), len(encoded[0]))

    def _encode(self, found: _LaidOut, readable: Container[str]) -> tuple[list[int], list[str]] | None:
        context = self._context
        document = found.plan.to_document(readable, found.draw, self._image_first)
        layout = context.tokenizer, context.num_image_tokens, context.context_length
        return encode_document(document, *layout, numerics=context.numerics)


@dataclass(frozen=True, slots=True)
class _Captioned:
    """An image with texts of which one is drawn."""

    image: str
    texts: list[str]
    subject: ImageSubject
    draw: random.Random


class CaptionSource(SampleSource[_Captioned]):
    """Images, each with one text."""

    def _make(self, name: str, found: _Captioned) -> Sample | SkippedSample:
        encoded = self._context.encode_pair(found.texts, found.draw, self._image_first)
        if encoded is None:
            return SkippedSample(name, "no caption")
        text, ids = encoded
        images, problems = self._context.read(self._dataset, self._corpus, [found.image])
        if problems:
            return SkippedSample(name, "unreadable image", *_describe(problems))
        cropped = self._context.crop([images[found.image]], found.draw)
        concepts, terms = (hash_term(captioned_concept(found.subject, text)),), term_hashes(found.subject, text)
        return Sample(name, self._number, np.array(ids, np.int32), *cropped, concepts=concepts, terms=terms)

    def _size(self, found: _Captioned) -> SampleSize | None:
        encoded = self._context.encode_pair(found.texts, found.draw, self._image_first)
        return None if encoded is None else (1, len(encoded[1]))


class PairSource(CaptionSource):
    """The captioned or labelled images of one split; of several captions one is drawn each time.

    With ``captions: drawn`` or ``keyword`` that of an image with keywords is composed each time (:func:`draw_caption`).
    """

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus, corpus.pairs(spec.split))

    def __len__(self) -> int:
        return len(self._rows)

    def _locate(self, item: int) -> tuple[int, int | None]:
        return item, None

    def _read(self, row: int, chunk: int | None, epoch: int, with_images: bool) -> _Captioned | str:
        pair: CaptionPair = self._rows[row] if with_images else self._rows.describe(row)
        texts = caption_candidates(pair)
        if self._captions != "as_written" and pair.subject.keywords:
            texts = [draw_caption(self._draw(epoch, row, 1), texts, pair.subject, self._captions)]
        return _Captioned(pair.image, texts, pair.subject, self._draw(epoch, row)) if texts else "no caption"

    def labels(self, item: int) -> Mapping[str, str]:
        pair: CaptionPair = self._rows.describe(item)
        return pair.labels


class MatchedPairSource(CaptionSource):
    """MMC4-Pair: every image that the rules for interleaved documents would choose, with its own sentence."""

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus, corpus.documents)
        self._chunks = corpus.chunks(context.data, 1)

    def __len__(self) -> int:
        return len(self._chunks)

    def _locate(self, item: int) -> tuple[int, int | None]:
        return self._chunks[item]

    def _read(self, row: int, chunk: int | None, epoch: int, with_images: bool) -> _Captioned | str:
        """Images of a sequence have no sentence; an index of shards rounds up, so it may count an image too many."""
        plan = self._plan(row, epoch, None, with_images)
        assert chunk is not None
        if not isinstance(plan, MatchedPlan) or chunk >= len(plan.placements):
            return "too few usable images"
        placement = plan.placements[chunk]
        subject = ImageSubject(concept=plan.concepts.get(placement.name, ""))
        text = plan.sentences[placement.sentence]
        return _Captioned(placement.name, [text], subject, self._draw(epoch, row, chunk + 1))


def _describe(problems: list[UserError]) -> tuple[str, tuple[str, ...]]:
    """The messages, and the codes to be counted."""
    return "; ".join(map(str, problems)), tuple(problem.code for problem in problems)


VIEWS: dict[str, type[DocumentSource | PairSource | MatchedPairSource]] = {
    "interleaved": DocumentSource,
    "pairs": PairSource,
    "matched_pairs": MatchedPairSource,
}
