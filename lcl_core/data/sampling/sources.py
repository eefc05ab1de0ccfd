"""Views of a corpus as numbered samples: documents (or chunks of them), captioned images, and matched pairs.

A matched pair is an image of a matched document with its sentence. Every random choice comes from a generator seeded
by (seed, source, epoch, item), so an item's sample is a pure function of these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.image_decoding import CropNeed
from lcl_core.data.records import CaptionPair
from lcl_core.data.sampling.document_plan import DocumentChunk, DocumentPlan, MatchedPlan, plan_document
from lcl_core.data.sampling.interleave import Numerics, encode_document, image_block, render_pair
from lcl_core.data.sampling.shuffle import mix64
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.transforms import PILLOW_CROPPER, Cropper, augment
from lcl_core.specs.pretrain import DataSpec, SourceSpec


@dataclass(frozen=True, slots=True)
class Sample:
    """One document, ready for the model.

    Attributes:
        id: where it was read: dataset, file and line, and the piece if it was cut.
        source: number of the source in the data spec.
        token_ids: int32 [L], no padding.
        pixels: float32 [k, 3, S, S], one image for each image block, in order.
        left_out: why each image that could not be read was left out, as error codes.
        position: where it stands in the stream of all ranks together.
    """

    id: str
    source: int
    token_ids: np.ndarray
    pixels: np.ndarray
    left_out: tuple[str, ...] = ()
    position: int = 0

    @property
    def unreadable(self) -> int:
        """Images of the document that had to be left out because they could not be read."""
        return len(self.left_out)


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


DEFAULT_CACHE_BYTES = 512 << 20
_BYTES_PER_PIXEL = 4  # Pillow pads RGB to four


class ImageCache:
    """Keeps what comes first, up to a bound, and drops nothing.

    Every epoch reads every image once, so replacing old by new would gain nothing over keeping a fixed part; and
    without replacement there is nothing to lock, in threads or after a fork.
    """

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._images: dict[tuple[str, str], Image.Image] = {}

    def __len__(self) -> int:
        return len(self._images)

    def get(self, dataset: str, name: str, read: Callable[[str], Image.Image]) -> Image.Image:
        """The RGB picture; ``read(name)`` is called, and its errors pass, when it is not kept."""
        found = self._images.get((dataset, name))
        if found is not None:
            return found
        image = read(name)
        size = image.width * image.height * _BYTES_PER_PIXEL
        if self.bytes + size <= self.max_bytes:
            self.bytes += size
            self._images[dataset, name] = image
        return image


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What all sources of a stream share."""

    data: DataSpec
    tokenizer: Tokenizer
    num_image_tokens: int
    image_size: int
    context_length: int
    seed: int
    numerics: Numerics
    cache: ImageCache
    cropper: Cropper = PILLOW_CROPPER

    def draw(self, *place: int) -> random.Random:
        """The generator of one place; the same numbers on every machine."""
        return random.Random(mix64(self.seed, *place))  # noqa: S311 - a data order, not a secret

    def tokens(self, text: str | None) -> int:
        """Length of a text, or (None) of an image, in tokens."""
        if text is None:
            return len(image_block(self.tokenizer, self.num_image_tokens))
        return len(self.tokenizer.encode(text, self.numerics == "fixed"))

    def read(
        self, dataset: str, corpus: Corpus, names: Iterable[str]
    ) -> tuple[dict[str, Image.Image], list[UserError]]:
        """The pictures that can be read, by name, and what is wrong with the others."""
        data = self.data
        need = CropNeed(self.image_size, data.augmentation.crop_scale[0]) if data.fast_decode else None
        images: dict[str, Image.Image] = {}
        problems: list[UserError] = []
        for name in names:
            try:
                images[name] = self.cache.get(dataset, name, partial(corpus.read_image, need=need))
            except UserError as error:
                problems.append(error)
        return images, problems

    def pixels(self, images: Sequence[Image.Image], draw: random.Random) -> np.ndarray:
        """Random crops → [k, 3, S, S] float32."""
        size = self.image_size
        pixels = np.empty((len(images), 3, size, size), np.float32)
        for image, out in zip(images, pixels, strict=True):
            augment(image, size, draw, self.data.augmentation, out, self.cropper)
        return pixels


def error_codes(problems: Iterable[UserError]) -> tuple[str, ...]:
    """Why pictures were left out, to be counted."""
    return tuple(problem.code for problem in problems)


def error_details(problems: Iterable[UserError]) -> str:
    """The particulars, for a person."""
    return "; ".join(str(problem) for problem in problems)


SampleSize = tuple[int, int]  # images, tokens


class SampleSource(Protocol):
    """Numbered items of one entry of the mixture."""

    def __init__(self, recipe: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None: ...

    def __len__(self) -> int:
        """Items in an epoch."""

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample: ...

    def measure(self, item: int) -> SampleSize | None:
        """Images and tokens of an item, its pictures not read and taken for readable; None: it gives no sample."""


class DocumentSource:
    """The documents of a corpus, whole or cut into pieces."""

    def __init__(self, recipe: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._documents = corpus.documents
        most = recipe.data.piece_images
        self._most = most
        self._pieces = corpus.chunks(recipe.data, most) if most is not None else None

    def __len__(self) -> int:
        return len(self._documents) if self._pieces is None else len(self._pieces)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        index, piece = self._place(item)
        name = f"{self._dataset}:{self._documents.location(index)}" + ("" if piece is None else f"#{piece + 1}")
        recipe = self._recipe
        try:
            drafted = self._draft(index, piece, epoch)
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        if drafted is None:
            return SkippedSample(name, "too few usable images")
        draw = recipe.draw(self._number, epoch, index, 1 if piece is None else piece + 2)
        images, problems = recipe.read(self._dataset, self._corpus, drafted.images)
        got = self._encode(drafted, images, draw, piece)
        if got is None:
            reason = "too few readable images" if problems else "too few images fit the context"
            return SkippedSample(name, reason, error_details(problems), error_codes(problems))
        ids, kept = got
        pixels = recipe.pixels([images[image] for image in kept], draw)
        return Sample(name, self._number, np.array(ids, np.int32), pixels, error_codes(problems))

    def measure(self, item: int) -> SampleSize | None:
        index, piece = self._place(item)
        try:
            drafted = self._draft(index, piece, 0)
        except UserError:
            return None
        if drafted is None:
            return None
        got = self._encode(drafted, drafted.images, self._recipe.draw(self._number, 0, index), piece)
        return None if got is None else (len(got[1]), len(got[0]))

    def _place(self, item: int) -> tuple[int, int | None]:
        """Document and piece."""
        return (item, None) if self._pieces is None else self._pieces[item]

    def _draft(self, index: int, piece: int | None, epoch: int) -> DocumentPlan | None:
        recipe = self._recipe
        cut = None
        if piece is not None and self._most is not None:
            cut = DocumentChunk(piece, self._most, recipe.context_length - 2, recipe.tokens)
        return plan_document(self._documents[index], recipe.data, recipe.draw(self._number, epoch, index, 0), cut)

    def _encode(
        self, drafted: DocumentPlan, readable: Container[str], draw: random.Random, piece: int | None
    ) -> tuple[list[int], list[str]] | None:
        recipe = self._recipe
        return encode_document(
            drafted.to_document(readable, draw, recipe.data.image_first_probability),
            recipe.tokenizer,
            recipe.num_image_tokens,
            recipe.context_length,
            recipe.data.min_images if piece is None else 1,
            recipe.numerics,
        )


class PairSource:
    """The captioned or labelled images of one split; of several captions one is drawn each time."""

    def __init__(self, recipe: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._pairs = corpus.pairs(spec.split)

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        name = f"{self._dataset}:{self._pairs.location(item)}"
        try:
            pair = self._pairs[item]
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        texts = caption_candidates(pair)
        if not texts:
            return SkippedSample(name, "no caption")
        draw = self._recipe.draw(self._number, epoch, item)
        return make_pair_sample(
            self._recipe, self._number, name, (self._dataset, self._corpus, pair.image), texts, draw
        )

    def measure(self, item: int) -> SampleSize | None:
        try:
            texts = caption_candidates(self._pairs[item])
        except UserError:
            return None
        if not texts:
            return None
        return 1, len(encode_pair(self._recipe, texts, self._recipe.draw(self._number, 0, item)))


class MatchedPairSource:
    """MMC4-Pair: every image that the rules for interleaved documents would choose, with its own sentence."""

    def __init__(self, recipe: StreamContext, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._documents = corpus.documents
        self._items = corpus.chunks(recipe.data, 1)

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, item: int, epoch: int) -> Sample | SkippedSample:
        index, number = self._items[item]
        name = f"{self._dataset}:{self._documents.location(index)}#{number + 1}"
        try:
            found = self._pair(index, number, epoch)
        except UserError as error:
            return SkippedSample(name, "unreadable line", str(error))
        if found is None:
            return SkippedSample(name, "too few usable images")
        image, sentence = found
        draw = self._recipe.draw(self._number, epoch, index, number + 1)
        return make_pair_sample(
            self._recipe, self._number, name, (self._dataset, self._corpus, image), [sentence], draw
        )

    def measure(self, item: int) -> SampleSize | None:
        index, number = self._items[item]
        try:
            found = self._pair(index, number, 0)
        except UserError:
            return None
        if found is None:
            return None
        return 1, len(encode_pair(self._recipe, [found[1]], self._recipe.draw(self._number, 0, index, number + 1)))

    def _pair(self, index: int, number: int, epoch: int) -> tuple[str, str] | None:
        """The image and its sentence. A sequence has no sentence that an image belongs to."""
        drafted = plan_document(
            self._documents[index], self._recipe.data, self._recipe.draw(self._number, epoch, index, 0)
        )
        if not isinstance(drafted, MatchedPlan):
            return None
        placement = drafted.placements[number]
        return placement.name, drafted.sentences[placement.sentence]


def caption_candidates(pair: CaptionPair) -> list[str]:
    """The captions; where there is none, the name of the class, or else every label."""
    captions = [caption for caption in pair.captions if caption.strip()]
    labels = {kind: label for kind, label in sorted(pair.labels.items()) if label.strip()}
    return captions or ([labels["class"]] if "class" in labels else list(labels.values()))


def make_pair_sample(
    recipe: StreamContext, source: int, name: str, place: tuple[str, Corpus, str], texts: list[str], draw: random.Random
) -> Sample | SkippedSample:
    """A picture with one of ``texts``. ``place``: its dataset, corpus and name."""
    dataset, corpus, image = place
    images, problems = recipe.read(dataset, corpus, [image])
    if problems:
        return SkippedSample(name, "unreadable image", error_details(problems), error_codes(problems))
    ids = encode_pair(recipe, texts, draw)
    return Sample(name, source, np.array(ids, np.int32), recipe.pixels([images[image]], draw))


def encode_pair(recipe: StreamContext, texts: list[str], draw: random.Random) -> list[int]:
    """One of the texts, drawn, in the pair wrapper."""
    return render_pair(
        draw.choice(texts),
        recipe.tokenizer,
        recipe.num_image_tokens,
        recipe.context_length,
        draw.random() < recipe.data.image_first_probability,
        recipe.numerics,
    )


VIEWS: dict[str, type[SampleSource]] = {
    "interleaved": DocumentSource,
    "pairs": PairSource,
    "matched_pairs": MatchedPairSource,
}
