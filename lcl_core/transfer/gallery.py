"""The captioned pictures of one split as the exam sees them: each picture once, each text once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcl_core.data import Corpus, Pair
from lcl_core.errors import UserError
from lcl_core.transfer.ranking import Ints


@dataclass(frozen=True)
class Picture:
    """One picture with all its captions and labels, also when the corpus gives it a line for each caption."""

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    source: str = ""


@dataclass(frozen=True)
class Texts:
    """Captions of a gallery.

    Attributes:
        texts: [M] texts, each once, in the order of their first picture.
        pairs: [P, 2] (picture row, text row), each pair once.
    """

    texts: tuple[str, ...]
    pairs: Ints


def read_gallery(corpus: Corpus, split: str, source: str | None, *, field: str) -> list[Picture]:
    """The split's pictures.

    Raises:
        UserError: ``empty_split``, if there are none (``field`` is the spec's field that named the split).
    """
    pictures = gather(corpus.pairs(split, source=source))
    if not pictures:
        of_source = f" of source {source!r}" if source else ""
        known = ", ".join(sorted(corpus.splits())) or "none"
        raise UserError(
            f"split {split!r} has no captioned images{of_source}; the corpus has splits: {known}",
            code="empty_split", field=field,
        )  # fmt: skip
    return pictures


def gather(pairs: Iterable[Pair]) -> list[Picture]:
    """One Picture an image name, captions in the order of the lines; a label's first value counts."""
    found: dict[str, Picture] = {}
    for pair in pairs:
        old = found.get(pair.image, Picture(pair.image, (), {}, pair.source))
        captions, labels = old.captions + tuple(pair.captions), {**pair.labels, **old.labels}
        found[pair.image] = Picture(pair.image, captions, labels, old.source)
    return list(found.values())


def texts_of(pictures: list[Picture], position: int | None) -> Texts:
    """The captions at one position (0 is the first; none: all captions).

    Equal captions of different pictures, the case of letters and runs of spaces aside, are one text with
    several right pictures: no text tower could tell them apart.
    """
    row_of: dict[str, int] = {}
    texts: list[str] = []
    pairs = []
    for picture_row, picture in enumerate(pictures):
        for caption in picture.captions if position is None else picture.captions[position : position + 1]:
            key = text_key(caption)
            if not key:
                continue
            if key not in row_of:
                row_of[key] = len(texts)
                texts.append(caption)
            pairs.append((picture_row, row_of[key]))
    return Texts(tuple(texts), np.unique(np.array(pairs, np.int64).reshape(-1, 2), axis=0))


def text_key(caption: str) -> str:
    """What a caption says, the case of letters and runs of spaces aside; empty for one that says nothing."""
    return " ".join(caption.split()).casefold()
