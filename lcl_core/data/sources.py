"""The two views of a corpus as numbered items: its documents (or pieces of them), and its captioned images.

Every random choice is drawn from a generator seeded by (seed, source, epoch, item): an item's sample is a pure
function of these.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from lcl_core.data.augment import augment
from lcl_core.data.cache import ImageCache
from lcl_core.data.corpus import Corpus
from lcl_core.data.interleave import (
    Numerics,
    Placement,
    choose_images,
    coins,
    encode_document,
    image_block,
    lay_out,
    render_pair,
)
from lcl_core.data.order import mix64
from lcl_core.data.pieces import PieceIndex, cut_piece, draw_sizes, drop_lead_in
from lcl_core.data.samples import Sample, Skipped
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.errors import UserError
from lcl_core.specs import DataSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all sources of a stream share."""

    data: DataSpec
    tokenizer: Tokenizer
    num_image_tokens: int
    image_size: int
    context_length: int
    seed: int
    numerics: Numerics
    cache: ImageCache

    def draw(self, *place: int) -> random.Random:
        """The generator of one place; the same numbers on every machine."""
        return random.Random(mix64(self.seed, *place))  # noqa: S311 - a data order, not a secret

    def pixels(self, images: Sequence[Image.Image], draw: random.Random) -> np.ndarray:
        """Random crops → [k, 3, S, S] float32."""
        size = self.image_size
        pixels = np.empty((len(images), 3, size, size), np.float32)
        for image, out in zip(images, pixels, strict=True):
            augment(image, size, draw, self.data.augmentation, out)
        return pixels


class Source(Protocol):
    """Numbered items of one entry of the mixture."""

    def __len__(self) -> int:
        """Items in an epoch."""

    def sample(self, item: int, epoch: int) -> Sample | Skipped: ...


class DocumentSource:
    """The documents of a corpus, whole or cut into pieces."""

    def __init__(self, recipe: Recipe, number: int, dataset: str, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, dataset, corpus
        self._documents = corpus.documents
        data = recipe.data
        self._pieces = (
            PieceIndex(self._documents, data.similarity_threshold, data.max_images, data.piece_images)
            if data.piece_images is not None
            else None
        )

    def __len__(self) -> int:
        return len(self._documents) if self._pieces is None else len(self._pieces)

    def sample(self, item: int, epoch: int) -> Sample | Skipped:
        index, piece = (item, None) if self._pieces is None else self._pieces[item]
        name = f"{self._dataset}:{self._documents.place_of(index)}" + ("" if piece is None else f"#{piece + 1}")
        recipe = self._recipe
        try:
            sentences, placements, start = self._part(index, piece, epoch)
        except UserError as error:
            return Skipped(name, "unreadable line", str(error))
        if not placements:
            return Skipped(name, "too few usable images")
        draw = recipe.draw(self._number, epoch, index, 1 if piece is None else piece + 2)
        images, problems = self._read(placements)
        placements = [placement for placement in placements if placement.name in images]
        before = coins(draw, recipe.data.image_first_probability, len(placements))
        got = encode_document(
            lay_out(sentences, placements, before, start),
            recipe.tokenizer,
            recipe.num_image_tokens,
            recipe.context_length,
            recipe.data.min_images if piece is None else 1,
            recipe.numerics,
        )
        if got is None:
            reason = "too few readable images" if problems else "too few images fit the context"
            return Skipped(name, reason, "; ".join(problems))
        ids, kept = got
        pixels = recipe.pixels([images[image] for image in kept], draw)
        return Sample(name, self._number, np.array(ids, np.int32), pixels, len(problems))

    def _part(self, index: int, piece: int | None, epoch: int) -> tuple[list[str], list[Placement], int]:
        """Sentences, images, and the number of the first sentence: of the whole document or of one piece.

        The cuts and the pick among images of one sentence are drawn for the document, so its pieces agree.
        """
        data = self._recipe.data
        document = self._documents[index]
        sentences: list[str] = document["text_list"]
        draw = self._recipe.draw(self._number, epoch, index, 0)
        placements = choose_images(document, data.similarity_threshold, data.max_images, draw)
        if len(placements) < data.min_images:
            return sentences, [], 0
        if piece is None or data.piece_images is None:
            return sentences, placements, 0
        sizes = draw_sizes(draw, len(placements), data.piece_images)
        own, span = cut_piece(placements, sizes, piece, len(sentences))
        start = span.start + self._surplus(sentences, own, span)
        return sentences[start : span.stop], own, start

    def _surplus(self, sentences: Sequence[str], own: Sequence[Placement], span: range) -> int:
        """Sentences of a piece's lead-in that must go, so that its images fit the context."""
        recipe = self._recipe
        block = len(image_block(recipe.tokenizer, recipe.num_image_tokens))
        placed = {placement.sentence for placement in own}
        lengths = [
            len(recipe.tokenizer.encode(sentences[number], recipe.numerics == "fixed"))
            + (block if number in placed else 0)
            for number in range(span.start, own[-1].sentence + 1)
        ]
        return drop_lead_in(lengths, own[0].sentence - span.start, recipe.context_length - 2)

    def _read(self, placements: Sequence[Placement]) -> tuple[dict[str, Image.Image], list[str]]:
        """The pictures that can be read, by name, and what is wrong with the others."""
        images: dict[str, Image.Image] = {}
        problems = []
        for placement in placements:
            try:
                images[placement.name] = self._recipe.cache.get(self._dataset, placement.name, self._corpus.read_image)
            except UserError as error:
                problems.append(str(error))
        return images, problems


class PairSource:
    """The captioned images of one split."""

    def __init__(self, recipe: Recipe, number: int, dataset: str, corpus: Corpus, split: str) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, dataset, corpus
        self._pairs = corpus.pairs(split)

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, item: int, epoch: int) -> Sample | Skipped:
        recipe = self._recipe
        name = f"{self._dataset}:{self._pairs.place_of(item)}"
        pair = self._pairs[item]
        captions = [caption for caption in pair.captions if caption.strip()]
        if not captions:
            return Skipped(name, "no caption")
        try:
            image = recipe.cache.get(self._dataset, pair.image, self._corpus.read_image)
        except UserError as error:
            return Skipped(name, "unreadable image", str(error))
        draw = recipe.draw(self._number, epoch, item)
        ids = render_pair(
            draw.choice(captions),
            recipe.tokenizer,
            recipe.num_image_tokens,
            recipe.context_length,
            draw.random() < recipe.data.image_first_probability,
            recipe.numerics,
        )
        return Sample(name, self._number, np.array(ids, np.int32), recipe.pixels([image], draw))
