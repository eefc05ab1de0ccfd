"""Contrastive head: attentive pooling on the image side, a text encoder on the text side (paper, transfer head (b)).

Both sides are L2-normalised and compared by dot product. B images a step, E dimensions. The text encoder is trained
along, or is frozen and its features come from the cache.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.encoders.base import TextEncoder
from lcl_core.evaluation.classifiers import AttentiveProbe
from lcl_core.evaluation.features import text_features
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.tasks.base import EvalContext, SplitImages, nonempty_captions, normalized_text
from lcl_core.evaluation.training import FeatureSource, train_head
from lcl_core.specs.evaluate import TunedRetrievalSpec

INITIAL_TEMPERATURE = 0.07
_MAX_LOG_SCALE = math.log(100)  # of the inverse temperature, as CLIP's
_TEXT_BATCH = 256


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


def trainable_captions(encoder: TextEncoder) -> CaptionEncoder:
    """A copy of the text encoder; the original is unchanged."""
    copy = encoder.copy()
    return CaptionEncoder(copy.features, encoder.width, copy.module)


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
    source: FeatureSource, split: SplitImages, rows: Ints, captions: CaptionEncoder, spec: TunedRetrievalSpec,
    field: str,
) -> FittedMatcher:  # fmt: skip
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
            source, head, order, load, loss, spec, len(rows), field,
            extra=[] if captions.module is None else [(captions.module, spec.text_lr)],
            precision=source.precision, threads=batches.threads,
        )  # fmt: skip
    return FittedMatcher(source, head, captions, losses)
