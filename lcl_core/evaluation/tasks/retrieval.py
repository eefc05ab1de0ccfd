"""Zero-shot image-text retrieval: every caption against all images of the split, every image against all captions.

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
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.metrics.ranks import Floats, RetrievalRanks, rank_bidirectional
from lcl_core.evaluation.results import IMAGE_TO_TEXT, TEXT_TO_IMAGE, PredictionFile
from lcl_core.evaluation.tasks.base import TEXT_COST, DatasetResolver, EvalContext, EvalImage, Task, normalized_text
from lcl_core.specs.evaluate import EvaluateSpec

MAX_POSITIONS = 5  # captions an image in COCO and Flickr30k; further ones count under "all" alone
_FLOAT64_LIMIT = 10**9  # up to this many similarities are computed in double precision


@dataclass(frozen=True)
class CaptionVariant:
    """The captions at one position, or all of them.

    Attributes:
        texts: [M] different texts, in the order of their first image.
        pairs: [P, 2] (image row, text row), each pair once.
    """

    name: str
    texts: tuple[str, ...]
    pairs: Ints


def caption_variants(images: list[EvalImage]) -> list[CaptionVariant]:
    """``captions[0]``, ``captions[1]`` … as far as the split has them, and ``all`` when there are several."""
    most = max(len(image.captions) for image in images)
    variants = [
        CaptionVariant(f"captions[{position}]", *unique_texts(images, position))
        for position in range(min(most, MAX_POSITIONS))
    ]
    if most > 1:
        variants.append(CaptionVariant("all", *unique_texts(images, None)))
    return [variant for variant in variants if variant.texts]


def unique_texts(images: list[EvalImage], position: int | None) -> tuple[tuple[str, ...], Ints]:
    """Different captions [M], and the pairs [P, 2] of image row and text row.

    Equal captions of different images, up to case and runs of spaces, are one text with several correct images: no
    text encoder could distinguish them.

    Args:
        position: 0 is the first; None: all captions.
    """
    row_of: dict[str, int] = {}
    texts: list[str] = []
    pairs = []
    for image_row, image in enumerate(images):
        for caption in image.captions if position is None else image.captions[position : position + 1]:
            key = normalized_text(caption)
            if not key:
                continue
            if key not in row_of:
                row_of[key] = len(texts)
                texts.append(caption)
            pairs.append((image_row, row_of[key]))
    return tuple(texts), np.unique(np.array(pairs, np.int64).reshape(-1, 2), axis=0)


def plan_variants(images: dict[str, list[EvalImage]]) -> dict[str, list[CaptionVariant]]:
    """The caption variants of each split. Raises: UserError ``nothing_to_score`` if a split has no captions."""
    variants = {split: caption_variants(own) for split, own in images.items()}
    for split, own in variants.items():
        if not own:
            raise UserError(f"split {split!r} has no captions to retrieve by", code="nothing_to_score", field="splits")
    return variants


def all_texts(variants: Sequence[CaptionVariant]) -> list[str]:
    """The texts of the variants, each once."""
    return list(dict.fromkeys(text for variant in variants for text in variant.texts))


def store_rankings(
    context: EvalContext,
    file: PredictionFile,
    images: list[EvalImage],
    variants: Sequence[CaptionVariant],
    image_features: Floats,
    embed_texts: Callable[[list[str]], Floats],
) -> None:
    """Rank in both directions and store the predictions of each variant.

    The gallery is the whole split in every variant, so that the numbers of variants compare; an image without a
    caption at the variant's position is a candidate and no query.

    Args:
        file: task, split, transfer and encoder of all files.
        image_features: [N, E] features of ``images``, L2-normalised.
        embed_texts: texts → features [M, E], L2-normalised.
    """
    texts = all_texts(variants)
    features, row_of = embed_texts(texts), {text: row for row, text in enumerate(texts)}
    names = [image.name for image in images]
    for variant in variants:
        left, right = image_features, features[[row_of[text] for text in variant.texts]]
        if left.shape[0] * right.shape[0] <= _FLOAT64_LIMIT:
            left, right = left.astype(np.float64), right.astype(np.float64)
        ranks = rank_bidirectional(left, right, variant.pairs, on_block=lambda *_: context.progress.add(0))
        without = len(images) - len(ranks.image_to_text.query)
        left_out = {"left_out": {"no_caption": without} if without else {}}
        for part, one, queries, answers, facts in (
            (IMAGE_TO_TEXT, ranks.image_to_text, names, variant.texts, left_out),
            (TEXT_TO_IMAGE, ranks.text_to_image, variant.texts, names, {}),
        ):
            predictions = replace(file, variant=variant.name, part=part, facts={"candidates": one.candidates, **facts})
            context.predictions.add(predictions, _samples(one, queries, answers))


def _samples(ranks: RetrievalRanks, queries: Sequence[str], answers: Sequence[str]) -> Iterator[dict[str, Any]]:
    for query, rank, right, top in zip(ranks.query, ranks.rank, ranks.right, ranks.top, strict=True):
        yield {
            "query": queries[query],
            "rank": int(rank),
            "right": int(right),
            "top": [answers[answer] for answer in top if answer >= 0],
        }


@dataclass(frozen=True)
class Retrieval(Task):
    """Retrieval without training.

    Attributes:
        images: of each tested split.
        variants: of each tested split.
    """

    name = "retrieval"

    images: dict[str, list[EvalImage]]
    variants: dict[str, list[CaptionVariant]]

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, resolver: DatasetResolver) -> Self:
        images = resolver.test_images(spec, corpus)
        return cls(images, plan_variants(images))

    def cost(self) -> float:
        texts = sum(len(all_texts(variants)) for variants in self.variants.values())
        return sum(map(len, self.images.values())) + TEXT_COST * texts

    def run(self, context: EvalContext, encoder: EvaluatedEncoder) -> None:
        for split, images in self.images.items():
            pooled = context.get_image_features(encoder, split, images).pooled
            if pooled is None:
                raise UserError("this encoder has no pooled latents to retrieve by", code="no_latents", field="tasks")
            context.progress.enter(f"{encoder.role} encoder: retrieval on {split}")

            def embed(texts: list[str]) -> Floats:
                return text_features(
                    encoder.model.identity, encoder.embed_texts, texts, context.cache,
                    advance=lambda count: context.progress.add(TEXT_COST * count),
                )  # fmt: skip

            file = PredictionFile(self.name, split, "", "zero_shot", "ranks", encoder.role)
            store_rankings(context, file, images, self.variants[split], pooled, embed)
