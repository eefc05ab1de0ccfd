"""Documents: pages cut into pieces, and pictures of one topic with their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lcl_core.corpora.steps.pages import Figure, Item, Text
from lcl_core.corpora.steps.rows import Document, Pair, Placed
from lcl_core.corpora.steps.texts import sentences, share_of

MAX_IMAGES, MAX_WORDS, MIN_WORDS = 8, 320, 12
GROUP, SMALLEST_GROUP = 6, 2
_NEAR_CAPTION = (0, -1, 1, -2)  # from the sentence before which the picture stands, the likeliest first
_NEAR = (-1, 0, -2, 1, -3, 2)
Body = tuple[list[str], list[Placed]]
K = TypeVar("K", bound="str | tuple[str, ...]")


def documents_of(items: Sequence[Item], max_words: int = MAX_WORDS) -> Iterator[Body]:
    """Pieces of a page that have a picture and enough words: sentences, and pictures matched to one each.

    A picture goes to its caption where there is one, else to the nearest sentence before it, else to the one after;
    no sentence is matched twice.
    """
    for piece in _pieces(items, max_words):
        laid = _laid_out(piece)
        if laid.figures and sum(len(text.split()) for text in laid.texts) >= MIN_WORDS:
            placed = list(_matched(laid))
            if placed:
                yield laid.texts, placed


def _pieces(items: Sequence[Item], max_words: int) -> Iterator[list[Item]]:
    piece: list[Item] = []
    words = images = 0
    for item in items:
        more = len(item.text.split()) if isinstance(item, Text) else 0
        full = images >= MAX_IMAGES if isinstance(item, Figure) else not item.caption and words + more > max_words
        if piece and full:
            yield piece
            piece, words, images = [], 0, 0
        piece.append(item)
        words += more
        images += isinstance(item, Figure)
    if piece:
        yield piece


@dataclass
class _Laid:
    """``figures``: each with the number of the sentence before which it stands."""

    texts: list[str] = field(default_factory=list)
    captions: set[int] = field(default_factory=set)
    figures: list[tuple[Figure, int]] = field(default_factory=list)


def _laid_out(piece: Iterable[Item]) -> _Laid:
    laid = _Laid()
    for item in piece:
        if isinstance(item, Figure):
            laid.figures.append((item, len(laid.texts)))
        elif item.caption:
            laid.captions.add(len(laid.texts))
            laid.texts.append(item.text)
        else:
            laid.texts += sentences(item.text)
    return laid


def _matched(laid: _Laid) -> Iterator[Placed]:
    taken: set[int] = set()
    for figure, before in laid.figures:
        near = [before + step for step in _NEAR_CAPTION if before + step in laid.captions]
        near += [before + step for step in _NEAR]
        free = (place for place in near if 0 <= place < len(laid.texts) and place not in taken)
        place = next(free, None)
        if place is not None:
            taken.add(place)
            yield Placed(figure.image, place, before, figure.alt)


def grouped(
    pairs: Iterable[Pair],
    key: Callable[[Pair], K],
    texts: Callable[[Pair], Sequence[str]],
    licence: str,
    title: Callable[[K], str] = lambda _: "",
) -> Iterator[Document]:
    """Training pictures of one topic, each before its own text, in an order that their names decide.

    The texts are as people wrote them; that these stand together is our doing.

    Args:
        licence: of all the works.
        title: first sentence of a topic's documents, or nothing.
    """
    groups: dict[K, list[Pair]] = {}
    for pair in pairs:
        if pair.split == "train":
            groups.setdefault(key(pair), []).append(pair)
    for topic, members in sorted(groups.items(), key=lambda group: group[0]):
        members.sort(key=lambda pair: share_of(f"order:{pair.image}"))
        for start in range(0, len(members), GROUP):
            chunk = members[start : start + GROUP]
            if len(chunk) >= SMALLEST_GROUP:
                url = f"{chunk[0].source}:{topic}/{start}"
                yield _group(url, chunk, title(topic), texts, licence)


def _group(
    url: str, chunk: Sequence[Pair], title: str, texts: Callable[[Pair], Sequence[str]], licence: str
) -> Document:
    said = [title] if title else []
    placed = []
    for pair in chunk:
        placed.append(Placed(pair.image, len(said), len(said)))
        said += texts(pair)
    return Document(url, chunk[0].source, licence, tuple(said), tuple(placed))
