"""Image-text retrieval, whoever makes the features: every caption against all the split's pictures, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lcl_core.errors import UserError
from lcl_core.transfer.gallery import Picture, Texts, texts_of
from lcl_core.transfer.ranking import Floats, Ranks, rank_both_ways
from lcl_core.transfer.records import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Records, Sheet

MAX_POSITIONS = 5  # captions an image in COCO and Flickr30k; further ones are asked for under "all" alone
_PRECISE_SCORES = 10**9  # up to this many similarities are made in double precision


@dataclass(frozen=True)
class Variant:
    """Which captions are asked for: those at one position, or all of them."""

    name: str
    texts: Texts


def variants(pictures: list[Picture]) -> list[Variant]:
    """``captions[0]``, ``captions[1]`` … as far as the split has them, and ``all`` when there are several."""
    most = max(len(picture.captions) for picture in pictures)
    named = [(f"captions[{position}]", texts_of(pictures, position)) for position in range(min(most, MAX_POSITIONS))]
    if most > 1:
        named.append(("all", texts_of(pictures, None)))
    return [Variant(name, texts) for name, texts in named if texts.texts]


def split_variants(split: str, pictures: list[Picture]) -> list[Variant]:
    """The same. Raises: UserError ``nothing_to_score`` if the split has no captions."""
    found = variants(pictures)
    if not found:
        raise UserError(f"split {split!r} has no captions to retrieve by", code="nothing_to_score", field="splits")
    return found


def texts_of_all(asked: Sequence[Variant]) -> list[str]:
    """The texts of the variants, each once."""
    return list(dict.fromkeys(text for each in asked for text in each.texts.texts))


def store_ranks(
    records: Records,
    asked: Sheet,
    pictures: list[Picture],
    variant: Variant,
    images: Floats,
    texts: Floats,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Rank both ways and store the answers.

    The gallery is the whole split in every variant, so that the numbers of variants compare; a picture
    without a caption at the variant's position is a candidate and no query.

    Args:
        asked: what both sheets share: task, split, variant, transfer, encoder.
        images: [N, E] features of ``pictures``, L2-normalised.
        texts: [M, E] features of the variant's texts.
        on_block: called with (done, total) texts, so that a long ranking can be stopped.
    """
    if images.shape[0] * texts.shape[0] <= _PRECISE_SCORES:
        images, texts = images.astype(np.float64), texts.astype(np.float64)
    found = rank_both_ways(images, texts, variant.texts.pairs, on_block=on_block)
    names = [picture.image for picture in pictures]
    silent = len(pictures) - len(found.image_to_text.query)
    left_out = {"no_caption": silent} if silent else {}
    ours, theirs = found.image_to_text, found.text_to_image
    records.add(
        replace(asked, part=IMAGE_TO_TEXT, facts={"candidates": ours.candidates, "left_out": left_out}),
        _samples(ours, names, variant.texts.texts),
    )
    records.add(
        replace(asked, part=TEXT_TO_IMAGE, facts={"candidates": theirs.candidates}),
        _samples(theirs, variant.texts.texts, names),
    )


def _samples(ranks: Ranks, asked: Sequence[str], answers: Sequence[str]) -> Iterator[dict[str, Any]]:
    for query, rank, right, top in zip(ranks.query, ranks.rank, ranks.right, ranks.top, strict=True):
        yield {
            "query": asked[query],
            "rank": int(rank),
            "right": int(right),
            "top": [answers[answer] for answer in top if answer >= 0],
        }
