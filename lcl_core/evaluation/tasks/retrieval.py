"""Image-text retrieval: every caption against all images of the split, every image against all captions.

Zero-shot: LCL encodes a caption as the context of an image to come (``sot text soi``); image features are the pooled
latents. Tuned: a contrastive head is trained on one split and tested on others. In both protocols the text encoder is
trained along at ``text_lr``; with ``text_lr`` 0 it is frozen. The random-init baseline uses the same text encoder where
the spec names one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.encoders.base import TextEncoder
from lcl_core.encoders.registry import TEXTS, detect_encoder, load_text_encoder
from lcl_core.evaluation.classifiers import AttentiveProbe
from lcl_core.evaluation.features import check_reads_texts, text_features
from lcl_core.evaluation.metrics import Floats, Ints, rank_bidirectional
from lcl_core.evaluation.results import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from lcl_core.evaluation.tasks.base import (
    EvalContext,
    EvalImage,
    EvaluationData,
    Holdout,
    SplitImages,
    Task,
    captioned_rows,
    nonempty_captions,
    normalized_text,
)
from lcl_core.evaluation.training import FeatureSource, choose, search_candidates, train_head
from lcl_core.specs.evaluate import Transfer, TunedRetrievalSpec

FIELD = "tuned_retrieval"
MAX_POSITIONS = 5  # captions an image in COCO and Flickr30k; further ones count under "all" alone
INITIAL_TEMPERATURE = 0.07
_MAX_LOG_SCALE = math.log(100)  # of the inverse temperature, as CLIP's
_TEXT_BATCH = 256
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


def plan_variants(images: dict[str, SplitImages]) -> dict[str, list[CaptionVariant]]:
    """The caption variants of each split."""
    variants = {split: caption_variants(own.images) for split, own in images.items()}
    if empty := [split for split, own in variants.items() if not own]:
        raise UserError(f"split {empty[0]!r} has no captions to retrieve by", code="no_data", field="splits")
    return variants


def all_texts(variants: Sequence[CaptionVariant]) -> list[str]:
    """The texts of the variants, each once."""
    return list(dict.fromkeys(text for variant in variants for text in variant.texts))


def store_rankings(
    context: EvalContext,
    split: SplitImages,
    variants: Sequence[CaptionVariant],
    image_features: Floats,
    embed_texts: Callable[[list[str]], Floats],
    **about: str,
) -> None:
    """Rank in both directions and store the predictions of each variant.

    The gallery is the whole split in every variant, so that the numbers of variants compare; an image without a
    caption at the variant's position is a candidate and no query.

    Args:
        image_features: [N, E] features of the split's images, L2-normalised.
        embed_texts: texts → features [M, E], L2-normalised.
        about: task and transfer.
    """
    texts = all_texts(variants)
    features, row_of = embed_texts(texts), {text: row for row, text in enumerate(texts)}
    names, groups = [image.name for image in split.images], [image.group() for image in split.images]
    for variant in variants:
        left, right = image_features, features[[row_of[text] for text in variant.texts]]
        if left.shape[0] * right.shape[0] <= _FLOAT64_LIMIT:
            left, right = left.astype(np.float64), right.astype(np.float64)
        of_images, of_texts = rank_bidirectional(left, right, variant.pairs, on_block=context.progress.heartbeat)
        without = len(names) - len(of_images.query)
        left_out: dict[str, Any] = {"left_out": {"no_caption": without} if without else {}}
        ungrouped: list[dict[str, str]] = [{}] * len(variant.texts)  # a text is one query, whichever images have it
        for part, ranks, queries, own_groups, answers, facts in (
            (IMAGE_TO_TEXT, of_images, names, groups, variant.texts, left_out),
            (TEXT_TO_IMAGE, of_texts, variant.texts, ungrouped, names, {}),
        ):
            samples = (
                {
                    "query": queries[query],
                    **own_groups[query],
                    "rank": int(rank),
                    "right": int(right),
                    "top": [answers[answer] for answer in top],
                }
                for query, rank, right, top in zip(ranks.query, ranks.rank, ranks.right, ranks.top, strict=True)
            )
            context.store(
                samples, split=split.split, variant=variant.name, kind="ranks", part=part,
                facts={"candidates": ranks.candidates, **facts}, **about,
            )  # fmt: skip


@dataclass(frozen=True)
class Retrieval(Task):
    """Retrieval without training; ``images`` and ``variants`` are of each tested split."""

    name = "retrieval"

    images: dict[str, SplitImages]
    variants: dict[str, list[CaptionVariant]]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        spec = data.spec
        check_reads_texts(data.encoder(spec.encoder))
        images = data.test_images()
        return cls(images, plan_variants(images))

    def run(self, context: EvalContext) -> None:
        for split, images in self.images.items():
            pooled = context.get_pooled_latents(images)
            context.enter(f"retrieval on {split}")

            def embed(texts: list[str]) -> Floats:
                return text_features(
                    context.encoder.model.identity, context.encoder.embed_texts, texts, context.cache,
                    heartbeat=context.progress.heartbeat,
                )  # fmt: skip

            store_rankings(context, images, self.variants[split], pooled, embed, task=self.name, transfer="zero_shot")


# ---- a contrastive head


@dataclass(frozen=True)
class CaptionEncoder:
    """The text side.

    Attributes:
        encode: texts → features [n, E], not normalised, differentiable where something is trained.
        width: E.
        module: the part that is trained; None where it is frozen.
    """

    encode: Callable[[Sequence[str]], Tensor]
    width: int
    module: nn.Module | None


def frozen_captions(encoder: TextEncoder, texts: Sequence[str], context: EvalContext) -> CaptionEncoder:
    """Features of ``texts``, all that will be encoded, computed once."""
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}

    @torch.inference_mode()
    def embed(batch: Sequence[str]) -> Tensor:
        return F.normalize(encoder.features(batch).float(), dim=-1).cpu()

    features = text_features(encoder.identity, embed, list(row_of), context.cache, heartbeat=context.progress.heartbeat)

    def encode(wanted: Sequence[str]) -> Tensor:
        return torch.from_numpy(features[[row_of[text] for text in wanted]]).to(encoder.device)

    return CaptionEncoder(encode, encoder.width, None)


class ContrastiveHead(nn.Module):
    """Pooling and linear layer of the image side, and the temperature."""

    undecayed = tuple(f"probe.{name}" for name in AttentiveProbe.undecayed)

    def __init__(self, width: int, shared: int, generator: torch.Generator) -> None:
        super().__init__()
        self.probe = AttentiveProbe(width, shared, generator)
        self.sharpness = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → [B, E], L2-normalised."""
        return F.normalize(self.probe(patches).float(), dim=-1)

    def loss(self, images: Tensor, texts: Tensor, keys: Sequence[str]) -> Tensor:
        """Symmetric cross-entropy over the batch.

        Args:
            images, texts: [B, E], L2-normalised, row-aligned.
            keys: [B] normalised texts; pairs of other images with an equal text are no negatives.
        """
        scores = self.sharpness.clamp(max=_MAX_LOG_SCALE).exp() * images @ texts.T
        ids = torch.from_numpy(np.unique(keys, return_inverse=True)[1]).to(scores.device)
        same = (ids[:, None] == ids[None]).fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


@dataclass(frozen=True)
class FittedMatcher:
    """A trained head on the features of ``source``, with its text side.

    Attributes:
        losses: of each step.
    """

    source: FeatureSource
    head: ContrastiveHead
    captions: CaptionEncoder
    losses: list[float]

    @torch.inference_mode()
    def images(self, split: SplitImages, rows: Ints) -> NDArray[np.float32]:
        """[n, E] features of the images ``rows`` of a split, L2-normalised."""
        batches = self.source.batches(split).test_batches(rows)
        return torch.cat([self.head(patches).cpu() for patches in batches]).numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, E] features of ``texts``, L2-normalised."""
        parts = []
        for start in range(0, len(texts), _TEXT_BATCH):
            batch = texts[start : start + _TEXT_BATCH]
            parts.append(F.normalize(self.captions.encode(batch).float(), dim=-1).cpu())
            self.source.context.progress.heartbeat()
        return torch.cat(parts).numpy()


def fit_matcher(
    source: FeatureSource, split: SplitImages, rows: Ints, captions: CaptionEncoder, spec: TunedRetrievalSpec
) -> FittedMatcher:
    """Contrastive training on the images ``rows``, each with one of its captions, drawn anew every epoch.

    ``rows``: those of ``split`` that have captions.
    """
    seed, batches = source.context.spec.seed, source.batches(split)
    generator = torch.Generator().manual_seed(seed)
    head = ContrastiveHead(source.width, captions.width, generator).to(source.device)

    def order(epoch: int) -> Sequence[Tensor]:
        parts = torch.randperm(len(rows), generator=generator).split(spec.batch_size)
        return [picks for picks in parts if len(picks) > 1] or parts  # a single image has no negatives

    def load(picks: Tensor, rng: random.Random) -> tuple[Tensor, list[str]]:
        chosen = rows[picks.numpy()]
        texts = [rng.choice(nonempty_captions(split.images[row])) for row in chosen]
        return batches.load(chosen, rng), texts

    def loss(batch: tuple[Tensor, list[str]]) -> Tensor:
        loaded, texts = batch
        features = F.normalize(captions.encode(texts).float(), dim=-1)
        return head.loss(head(batches.patches(loaded)), features, [normalized_text(text) for text in texts])

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a text encoder may have dropout
        losses = train_head(
            source, head, order, load, loss, spec, len(rows), FIELD,
            extra=[] if captions.module is None else [(captions.module, spec.text_lr)],
            precision=source.precision, threads=batches.threads,
        )  # fmt: skip
    return FittedMatcher(source, head, captions, losses)


@dataclass(frozen=True)
class TunedRetrieval(Task):
    """A contrastive head (paper, transfer head (b)), frozen or full.

    Attributes:
        text_encoder: directory of the text encoder; None: the evaluated encoder's own.
        train, train_rows: the images to train on, and the rows of those that have captions.
        images, variants: of each tested split.
    """

    name = FIELD

    spec: TunedRetrievalSpec
    transfer: tuple[Transfer, ...]
    text_encoder: Path | None
    train: SplitImages
    train_rows: Ints
    images: dict[str, SplitImages]
    variants: dict[str, list[CaptionVariant]]
    holdout: Holdout[Ints] | None

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        spec = data.spec
        own, images = spec.tuned_retrieval, data.test_images()
        variants = plan_variants(images)
        train = data.train_images(own, FIELD)
        train_rows = _rows_to_match(train, "train_split")
        holdout = None
        if own.search:
            select = partial(_rows_to_match, field="validation_split")
            holdout = data.make_holdout(own, FIELD, train, train_rows, select, minimum=2)
        field = f"{FIELD}.text_encoder"
        text_encoder = None if own.text_encoder is None else data.encoder(own.text_encoder, field)
        if TEXTS not in detect_encoder(text_encoder or data.encoder(spec.encoder)).reads:
            raise UserError(
                f"encoder {own.text_encoder or spec.encoder!r} reads no texts; name one that does in {field}",
                code="no_text_encoder", field=field,
            )  # fmt: skip
        return cls(own, spec.protocols(own), text_encoder, train, train_rows, images, variants, holdout)

    @property
    def needs_patch_features(self) -> bool:
        return "frozen" in self.transfer

    def run(self, context: EvalContext) -> None:
        text_encoder = context.encoder.model.text_encoder
        if self.text_encoder is not None:
            text_encoder = load_text_encoder(self.text_encoder, f"{FIELD}.text_encoder")
        assert text_encoder is not None, "the plan has checked that this encoder reads texts"
        for transfer in self.transfer:
            self._run_transfer(context, transfer, text_encoder)

    def _run_transfer(self, context: EvalContext, transfer: Transfer, text_encoder: TextEncoder) -> None:
        labels = context.fit_labels(self.name, "captions", transfer)

        def attempt(candidate: TunedRetrievalSpec, holdout: Holdout[Ints]) -> float:
            """Mean of TR@1 and IR@1 among the held-out images and all of their captions."""
            matcher = self._fit(context, transfer, text_encoder, candidate, holdout.train)
            texts, pairs = unique_texts([holdout.source.images[row] for row in holdout.test], None)
            features = matcher.images(holdout.source, holdout.test)
            of_images, of_texts = rank_bidirectional(features, matcher.texts(texts), pairs)
            return float(np.mean(of_images.rank == 1) + np.mean(of_texts.rank == 1)) / 2

        candidates, metric = search_candidates(self.spec.for_protocol(transfer)), "mean of TR@1 and IR@1"
        spec = choose(context, candidates, attempt, self.holdout, labels, field=FIELD, metric=metric)
        context.enter(f"{transfer} transfer to retrieval")
        matcher = self._fit(context, transfer, text_encoder, spec, self.train_rows)
        context.log_losses(labels, matcher.losses)
        for split, images in self.images.items():
            context.enter(f"{transfer} retrieval on {split}")
            features = matcher.images(images, np.arange(len(images)))
            store_rankings(
                context, images, self.variants[split], features, matcher.texts, task=self.name, transfer=transfer
            )

    def _fit(
        self,
        context: EvalContext,
        transfer: Transfer,
        text_encoder: TextEncoder,
        spec: TunedRetrievalSpec,
        rows: Ints,
    ) -> FittedMatcher:
        """A new head and text encoder, and in full transfer a new copy of the image encoder."""
        if self.spec.text_lr > 0:
            copy = text_encoder.copy()  # the original is unchanged
            captions = CaptionEncoder(copy.features, text_encoder.width, copy.module)
        else:
            captions = frozen_captions(text_encoder, self._all_texts, context)
        source = FeatureSource(context, transfer, spec.augmentation)
        return fit_matcher(source, self.train, rows, captions, spec)

    @property
    def _all_texts(self) -> list[str]:
        tested = [text for variants in self.variants.values() for text in all_texts(variants)]
        held_out = self.holdout.source.images if self.holdout else []
        return tested + [caption for image in (*self.train.images, *held_out) for caption in nonempty_captions(image)]


def _rows_to_match(split: SplitImages, field: str) -> Ints:
    rows = captioned_rows(split)
    if len(rows) < 2:
        raise UserError(
            f"split {split.split!r} has {len(rows)} images with captions, and matching needs at least two",
            code="no_data", field=f"{FIELD}.{field}",
        )  # fmt: skip
    return rows
