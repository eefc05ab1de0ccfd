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
        need = CropNeed(self.image_size, self.data.augmentation.crop_scale[0])
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
            augment_levels(image, size, draw, spec, out, self.cropper)
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


class SampleSource(ABC):
    """Numbered items of one entry of the mixture.

    Attributes:
        images_per_sample: most images that a sample has.
    """

    images_per_sample = 1

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._context, self._number, self._dataset, self._corpus = context, number, spec.dataset, corpus
        self._captions = spec.captions
        own = spec.image_first_probability
        self._image_first = context.data.image_first_probability if own is None else own

    @abstractmethod
    def __len__(self) -> int:
        """Items in an epoch."""

    @abstractmethod
    def sample(self, item: int, epoch: int) -> Sample | SkippedSample: ...

    @abstractmethod
    def measure(self, item: int) -> SampleSize | None:
        """Images and tokens of an item, its images not read and assumed readable; None: it gives no sample."""

    @abstractmethod
    def record(self, item: int) -> int | None:
        """Number of the record that holds an item, in a corpus of shards; None in any other."""

    def labels(self, item: int) -> Mapping[str, str]:
        """Labels of an item by kind; documents have none. Raises: UserError where it cannot be read."""
        return {}

    def _draw(self, *key: int) -> random.Random:
        return self._context.draw(self._number, *key)

    def _plan(
        self, index: int, epoch: int, chunk: DocumentChunk | None = None, with_images: bool = True
    ) -> DocumentPlan | None:
        """The layout of a document. ``with_images``: they are read next, so along with it. Raises: UserError."""
        documents = self._corpus.documents
        document = documents[index] if with_images else documents.describe(index)
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

    def _pair_sample(
        self, name: str, image: str, subject: ImageSubject, texts: list[str], draw: random.Random
    ) -> Sample | SkippedSample:
        encoded = self._context.encode_pair(texts, draw, self._image_first)
        if encoded is None:
            return SkippedSample(name, "no caption")
        text, ids = encoded
        images, problems = self._context.read(self._dataset, self._corpus, [image])
        if problems:
            return SkippedSample(name, "unreadable image", *_describe(problems))
        cropped = self._context.crop([images[image]], draw)
        concepts, terms = (hash_term(captioned_concept(subject, text)),), term_hashes(subject, text)
        return Sample(name, self._number, np.array(ids, np.int32), *cropped, concepts=concepts, terms=terms)

    def _pair_size(self, texts: list[str], draw: random.Random) -> SampleSize | None:
        encoded = self._context.encode_pair(texts, draw, self._image_first)
        return None if encoded is None else (1, len(encoded[1]))


class DocumentSource(SampleSource):
    """The documents of a corpus, whole or cut into chunks."""

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus)
        self._max_images = context.data.piece_images
        self.images_per_sample = min(context.data.max_images, self._max_images or context.data.max_images)
        self._chunks = None if self._max_images is None else corpus.chunks(context.data, self._max_images)

    def __len__(self) -> int:
        return len(self._corpus.documents) if self._chunks is None else len(self._chunks)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        index, chunk = self._locate(item)
        suffix = "" if chunk is None else f"#{chunk + 1}"
        name = f"{self._dataset}:{self._corpus.documents.location(index)}{suffix}"
        try:
            plan = self._plan_chunk(index, chunk, epoch)
        except StoreError:
            raise
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        if plan is None:
            return SkippedSample(name, "too few usable images")
        draw = self._draw(epoch, index, 1 if chunk is None else chunk + 2)
        images, problems = self._context.read(self._dataset, self._corpus, plan.images)
        encoded = self._encode(plan, images, draw, chunk)
        detail, codes = _describe(problems)
        if encoded is None:
            reason = "too few readable images" if problems else "too few images fit the context"
            return SkippedSample(name, reason, detail, codes)
        ids, kept = encoded
        cropped = self._context.crop([images[image] for image in kept], draw)
        concepts = tuple(hash_term(plan.concepts.get(image, "")) for image in kept)
        return Sample(name, self._number, np.array(ids, np.int32), *cropped, codes, concepts=concepts)

    def measure(self, item: int) -> SampleSize | None:
        index, chunk = self._locate(item)
        try:
            plan = self._plan_chunk(index, chunk, 0, with_images=False)
        except StoreError:
            raise
        except UserError:
            return None
        encoded = None if plan is None else self._encode(plan, plan.images, self._draw(0, index), chunk)
        return None if encoded is None else (len(encoded[1]), len(encoded[0]))

    def record(self, item: int) -> int | None:
        return _record_number(self._corpus.documents, self._locate(item)[0])

    def _locate(self, item: int) -> tuple[int, int | None]:
        """Document and chunk."""
        return (item, None) if self._chunks is None else self._chunks[item]

    def _plan_chunk(self, index: int, chunk: int | None, epoch: int, with_images: bool = True) -> DocumentPlan | None:
        part, context = None, self._context
        if chunk is not None and self._max_images is not None:
            part = DocumentChunk(chunk, self._max_images, context.context_length - 2, context.tokens)
        return self._plan(index, epoch, part, with_images)

    def _encode(
        self, plan: DocumentPlan, readable: Container[str], draw: random.Random, chunk: int | None
    ) -> tuple[list[int], list[str]] | None:
        context = self._context
        return encode_document(
            plan.to_document(readable, draw, self._image_first),
            context.tokenizer,
            context.num_image_tokens,
            context.context_length,
            numerics=context.numerics,
        )


class PairSource(SampleSource):
    """The captioned or labelled images of one split; of several captions one is drawn each time.

    With ``captions: drawn`` or ``keyword`` that of an image with keywords is composed each time (:func:`draw_caption`).
    """

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus)
        self._pairs = corpus.pairs(spec.split)

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        name = f"{self._dataset}:{self._pairs.location(item)}"
        try:
            pair = self._pairs[item]
        except StoreError:
            raise
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        texts = self._texts(pair, item, epoch)
        if not texts:
            return SkippedSample(name, "no caption")
        return self._pair_sample(name, pair.image, pair.subject, texts, self._draw(epoch, item))

    def measure(self, item: int) -> SampleSize | None:
        try:
            texts = self._texts(self._pairs.describe(item), item, 0)
        except StoreError:
            raise
        except UserError:
            return None
        return self._pair_size(texts, self._draw(0, item)) if texts else None

    def record(self, item: int) -> int | None:
        return _record_number(self._pairs, item)

    def _texts(self, pair: CaptionPair, item: int, epoch: int) -> list[str]:
        """Texts of which one is drawn; a single one where it has been composed."""
        written = caption_candidates(pair)
        if self._captions == "as_written" or not pair.subject.keywords:
            return written
        return [draw_caption(self._draw(epoch, item, 1), written, pair.subject, self._captions)]

    def labels(self, item: int) -> Mapping[str, str]:
        return self._pairs.describe(item).labels


class MatchedPairSource(SampleSource):
    """MMC4-Pair: every image that the rules for interleaved documents would choose, with its own sentence."""

    def __init__(self, context: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        super().__init__(context, number, spec, corpus)
        self._items = corpus.chunks(context.data, 1)

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        index, number = self._items[item]
        name = f"{self._dataset}:{self._corpus.documents.location(index)}#{number + 1}"
        try:
            pair = self._pair(index, number, epoch)
        except StoreError:
            raise
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        if pair is None:
            return SkippedSample(name, "too few usable images")
        image, text, concept = pair
        subject, draw = ImageSubject(concept=concept), self._draw(epoch, index, number + 1)
        return self._pair_sample(name, image, subject, [text], draw)

    def measure(self, item: int) -> SampleSize | None:
        index, number = self._items[item]
        try:
            pair = self._pair(index, number, 0, with_images=False)
        except StoreError:
            raise
        except UserError:
            return None
        return None if pair is None else self._pair_size([pair[1]], self._draw(0, index, number + 1))

    def record(self, item: int) -> int | None:
        return _record_number(self._corpus.documents, self._items[item][0])

    def _pair(self, index: int, number: int, epoch: int, with_images: bool = True) -> tuple[str, str, str] | None:
        """The image, its sentence and concept; None for a sequence, whose images have no sentence."""
        plan = self._plan(index, epoch, with_images=with_images)
        if not isinstance(plan, MatchedPlan):
            return None
        if number >= len(plan.placements):  # an index of shards rounds similarities up: it may count an image too many
            return None
        placement = plan.placements[number]
        return placement.name, plan.sentences[placement.sentence], plan.concepts.get(placement.name, "")


def _record_number(items: Documents | CaptionPairs, index: int) -> int | None:
    return items.selection[index] if isinstance(items, SelectedRecords) else None


def _describe(problems: list[UserError]) -> tuple[str, tuple[str, ...]]:
    """The messages, and the codes to be counted."""
    return "; ".join(map(str, problems)), tuple(problem.code for problem in problems)


VIEWS: dict[str, type[SampleSource]] = {
    "interleaved": DocumentSource,
    "pairs": PairSource,
    "matched_pairs": MatchedPairSource,
}
