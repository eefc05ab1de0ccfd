"""The views of a corpus as numbered items: its documents (or pieces of them), its captioned images, and the pairs of
an image and its sentence that its matched documents hold.

Every random choice is drawn from a generator seeded by (seed, source, epoch, item): an item's sample is a pure
function of these.
"""

from __future__ import annotations

import random
from collections.abc import Container
from typing import Protocol

import numpy as np

from lcl_core.data.corpus import Corpus
from lcl_core.data.drafts import Cut, Draft, MatchedDraft, draft
from lcl_core.data.interleave import encode_document, render_pair
from lcl_core.data.pairs import Pair
from lcl_core.data.recipe import Recipe, codes, details
from lcl_core.data.samples import Sample, Skipped
from lcl_core.errors import UserError
from lcl_core.specs import SourceSpec

__all__ = ["VIEWS", "DocumentSource", "MatchedPairSource", "PairSource", "Recipe", "Source"]

Size = tuple[int, int]  # images, tokens


class Source(Protocol):
    """Numbered items of one entry of the mixture."""

    def __init__(self, recipe: Recipe, number: int, spec: SourceSpec, corpus: Corpus) -> None: ...

    def __len__(self) -> int:
        """Items in an epoch."""

    def sample(self, item: int, epoch: int) -> Sample | Skipped: ...

    def measure(self, item: int) -> Size | None:
        """Images and tokens of an item, its pictures not read and taken for readable; None: it gives no sample."""


class DocumentSource:
    """The documents of a corpus, whole or cut into pieces."""

    def __init__(self, recipe: Recipe, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._documents = corpus.documents
        most = recipe.data.piece_images
        self._most = most
        self._pieces = corpus.pieces(recipe.data, most) if most is not None else None

    def __len__(self) -> int:
        return len(self._documents) if self._pieces is None else len(self._pieces)

    def sample(self, item: int, epoch: int) -> Sample | Skipped:
        index, piece = self._place(item)
        name = f"{self._dataset}:{self._documents.place_of(index)}" + ("" if piece is None else f"#{piece + 1}")
        recipe = self._recipe
        try:
            drafted = self._draft(index, piece, epoch)
        except UserError as error:
            return Skipped(name, "unreadable line", str(error))
        if drafted is None:
            return Skipped(name, "too few usable images")
        draw = recipe.draw(self._number, epoch, index, 1 if piece is None else piece + 2)
        images, problems = recipe.read(self._dataset, self._corpus, drafted.images)
        got = self._encode(drafted, images, draw, piece)
        if got is None:
            reason = "too few readable images" if problems else "too few images fit the context"
            return Skipped(name, reason, details(problems), codes(problems))
        ids, kept = got
        pixels = recipe.pixels([images[image] for image in kept], draw)
        return Sample(name, self._number, np.array(ids, np.int32), pixels, codes(problems))

    def measure(self, item: int) -> Size | None:
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

    def _draft(self, index: int, piece: int | None, epoch: int) -> Draft | None:
        recipe = self._recipe
        cut = None
        if piece is not None and self._most is not None:
            cut = Cut(piece, self._most, recipe.context_length - 2, recipe.tokens)
        return draft(self._documents[index], recipe.data, recipe.draw(self._number, epoch, index, 0), cut)

    def _encode(
        self, drafted: Draft, readable: Container[str], draw: random.Random, piece: int | None
    ) -> tuple[list[int], list[str]] | None:
        recipe = self._recipe
        return encode_document(
            drafted.lay_out(readable, draw, recipe.data.image_first_probability),
            recipe.tokenizer,
            recipe.num_image_tokens,
            recipe.context_length,
            recipe.data.min_images if piece is None else 1,
            recipe.numerics,
        )


class PairSource:
    """The captioned or labelled images of one split; of several captions one is drawn each time."""

    def __init__(self, recipe: Recipe, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._pairs = corpus.pairs(spec.split)

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, item: int, epoch: int) -> Sample | Skipped:
        name = f"{self._dataset}:{self._pairs.place_of(item)}"
        try:
            pair = self._pairs[item]
        except UserError as error:
            return Skipped(name, "unreadable line", str(error))
        texts = texts_of(pair)
        if not texts:
            return Skipped(name, "no caption")
        draw = self._recipe.draw(self._number, epoch, item)
        return pair_sample(self._recipe, self._number, name, (self._dataset, self._corpus, pair.image), texts, draw)

    def measure(self, item: int) -> Size | None:
        try:
            texts = texts_of(self._pairs[item])
        except UserError:
            return None
        if not texts:
            return None
        return 1, len(encode_pair(self._recipe, texts, self._recipe.draw(self._number, 0, item)))


class MatchedPairSource:
    """MMC4-Pair: every image that the rules for interleaved documents would choose, with its own sentence."""

    def __init__(self, recipe: Recipe, number: int, spec: SourceSpec, corpus: Corpus) -> None:
        self._recipe, self._number, self._dataset, self._corpus = recipe, number, spec.dataset, corpus
        self._documents = corpus.documents
        self._items = corpus.pieces(recipe.data, 1)

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, item: int, epoch: int) -> Sample | Skipped:
        index, number = self._items[item]
        name = f"{self._dataset}:{self._documents.place_of(index)}#{number + 1}"
        try:
            found = self._pair(index, number, epoch)
        except UserError as error:
            return Skipped(name, "unreadable line", str(error))
        if found is None:
            return Skipped(name, "too few usable images")
        image, sentence = found
        draw = self._recipe.draw(self._number, epoch, index, number + 1)
        return pair_sample(self._recipe, self._number, name, (self._dataset, self._corpus, image), [sentence], draw)

    def measure(self, item: int) -> Size | None:
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
        drafted = draft(self._documents[index], self._recipe.data, self._recipe.draw(self._number, epoch, index, 0))
        if not isinstance(drafted, MatchedDraft):
            return None
        placement = drafted.placements[number]
        return placement.name, drafted.sentences[placement.sentence]


def texts_of(pair: Pair) -> list[str]:
    """The captions; where there is none, the name of the class, or else every label."""
    captions = [caption for caption in pair.captions if caption.strip()]
    labels = {kind: label for kind, label in sorted(pair.labels.items()) if label.strip()}
    return captions or ([labels["class"]] if "class" in labels else list(labels.values()))


def pair_sample(
    recipe: Recipe, source: int, name: str, place: tuple[str, Corpus, str], texts: list[str], draw: random.Random
) -> Sample | Skipped:
    """A picture with one of ``texts``. ``place``: its dataset, corpus and name."""
    dataset, corpus, image = place
    images, problems = recipe.read(dataset, corpus, [image])
    if problems:
        return Skipped(name, "unreadable image", details(problems), codes(problems))
    ids = encode_pair(recipe, texts, draw)
    return Sample(name, source, np.array(ids, np.int32), recipe.pixels([images[image]], draw))


def encode_pair(recipe: Recipe, texts: list[str], draw: random.Random) -> list[int]:
    """One of the texts, drawn, in the pair wrapper."""
    return render_pair(
        draw.choice(texts),
        recipe.tokenizer,
        recipe.num_image_tokens,
        recipe.context_length,
        draw.random() < recipe.data.image_first_probability,
        recipe.numerics,
    )


VIEWS: dict[str, type[Source]] = {
    "interleaved": DocumentSource,
    "pairs": PairSource,
    "matched_pairs": MatchedPairSource,
}
