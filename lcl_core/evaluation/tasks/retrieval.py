"""Zero-shot image-text retrieval: every caption against all images of the split, and every image against all captions.

LCL encodes a caption as the context of an image to come (``sot text soi``); image features are the pooled latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.features import EvaluatedEncoder, text_features
from lcl_core.evaluation.metrics.ranks import Floats, RetrievalRanks, rank_bidirectional
from lcl_core.evaluation.predictions import IMAGE_TO_TEXT, TEXT_TO_IMAGE, PredictionFile, PredictionStore
from lcl_core.evaluation.tasks.base import (
    TEXT_COST,
    DatasetResolver,
    EvalContext,
    EvalImage,
    Task,
    UniqueTexts,
    unique_texts,
)
from lcl_core.specs.evaluate import EvaluateSpec

MAX_POSITIONS = 5  # captions an image in COCO and Flickr30k; further ones are asked for under "all" alone
_FLOAT64_LIMIT = 10**9  # up to this many similarities are made in double precision


@dataclass(frozen=True)
class CaptionVariant:
    """Which captions are asked for: those at one position, or all of them."""

    name: str
    texts: UniqueTexts


def caption_variants(pictures: list[EvalImage]) -> list[CaptionVariant]:
    """``captions[0]``, ``captions[1]`` … as far as the split has them, and ``all`` when there are several."""
    most = max(len(picture.captions) for picture in pictures)
    named = [
        (f"captions[{position}]", unique_texts(pictures, position)) for position in range(min(most, MAX_POSITIONS))
    ]
    if most > 1:
        named.append(("all", unique_texts(pictures, None)))
    return [CaptionVariant(name, texts) for name, texts in named if texts.texts]


def split_variants(split: str, pictures: list[EvalImage]) -> list[CaptionVariant]:
    """The same. Raises: UserError ``nothing_to_score`` if the split has no captions."""
    found = caption_variants(pictures)
    if not found:
        raise UserError(f"split {split!r} has no captions to retrieve by", code="nothing_to_score", field="splits")
    return found


def all_texts(asked: Sequence[CaptionVariant]) -> list[str]:
    """The texts of the variants, each once."""
    return list(dict.fromkeys(text for each in asked for text in each.texts.texts))


def store_rankings(
    records: PredictionStore,
    asked: PredictionFile,
    pictures: list[EvalImage],
    variant: CaptionVariant,
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
    if images.shape[0] * texts.shape[0] <= _FLOAT64_LIMIT:
        images, texts = images.astype(np.float64), texts.astype(np.float64)
    found = rank_bidirectional(images, texts, variant.texts.pairs, on_block=on_block)
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


def _samples(ranks: RetrievalRanks, asked: Sequence[str], answers: Sequence[str]) -> Iterator[dict[str, Any]]:
    for query, rank, right, top in zip(ranks.query, ranks.rank, ranks.right, ranks.top, strict=True):
        yield {
            "query": asked[query],
            "rank": int(rank),
            "right": int(right),
            "top": [answers[answer] for answer in top if answer >= 0],
        }


@dataclass(frozen=True)
class Retrieval(Task):
    """Every caption looks for its picture and every picture for its captions; nothing is trained.

    Attributes:
        galleries: pictures of each tested split.
        variants: which captions are asked for, by split.
    """

    name = "retrieval"

    galleries: dict[str, list[EvalImage]]
    variants: dict[str, list[CaptionVariant]]

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        galleries = places.tested(spec, corpus)
        return cls(galleries, {split: split_variants(split, pictures) for split, pictures in galleries.items()})

    def units(self) -> float:
        return sum(map(len, self.galleries.values())) + TEXT_COST * sum(map(len, self._texts.values()))

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        for split, pictures in self.galleries.items():
            pooled = room.look(encoder, split, pictures).pooled
            if pooled is None:
                raise UserError("this encoder has no pooled latents to retrieve by", code="no_latents", field="tasks")
            room.progress.enter(f"{encoder.role} encoder: retrieval on {split}")
            texts = self._texts[split]
            features = text_features(
                encoder, texts, room.cache, advance=lambda count: room.progress.add(TEXT_COST * count)
            )
            row_of = {text: row for row, text in enumerate(texts)}
            for variant in self.variants[split]:
                rows = np.array([row_of[text] for text in variant.texts.texts])
                asked = PredictionFile(self.name, split, variant.name, "zero_shot", "ranks", encoder.role)
                store_rankings(
                    room.records, asked, pictures, variant, pooled, features[rows],
                    on_block=lambda *_: room.progress.add(0),
                )  # fmt: skip

    @property
    def _texts(self) -> dict[str, list[str]]:
        """The texts to embed for each split, each once."""
        return {split: all_texts(asked) for split, asked in self.variants.items()}
