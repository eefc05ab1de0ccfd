"""Contrastive head: attentive pooling on the image side, a text encoder on the text side (paper, transfer head (b)).

Both sides are L2-normalised and compared by dot product. B images a step, E dimensions. The text encoder is trained
along, or is frozen and its features come from the cache.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.encoders.base import TextEncoder
from lcl_core.evaluation.features import FeatureCache, cached_text_features
from lcl_core.evaluation.heads.linear_probe import AttentiveProbe
from lcl_core.evaluation.heads.training import FeatureSource, ImageBatchSource, count_steps, prefetch_map, train_head
from lcl_core.evaluation.metrics.ranks import Ints
from lcl_core.evaluation.tasks.base import EvalImage, normalized_text
from lcl_core.specs.evaluate import TunedRetrievalSpec


class CaptionFeatures(ABC):
    """Texts to features [n, E], not normalised.

    Attributes:
        width: E.
        module: what learns along; none where nothing does.
    """

    width: int
    module: nn.Module | None

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Tensor:
        """[n, E], differentiable where something learns."""


class TrainableTextEncoder(CaptionFeatures):
    """A copy of the text encoder; the original stays as it is."""

    def __init__(self, side: TextEncoder) -> None:
        self._side = side.copy()
        self.width, self.module = side.width, self._side.module

    def read(self, texts: Sequence[str]) -> Tensor:
        return self._side.features(texts)


class FrozenTextEncoder(CaptionFeatures):
    """Features that were computed once.

    Args:
        texts: all that will ever be asked for.
        advance: called with the number of texts done.
    """

    module = None

    def __init__(
        self, side: TextEncoder, texts: Sequence[str], cache: FeatureCache, advance: Callable[[int], None]
    ) -> None:
        self.width, self._device = side.width, side.device
        self._row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}

        @torch.inference_mode()
        def embed(some: Sequence[str]) -> Tensor:
            return F.normalize(side.features(some).float(), dim=-1).cpu()

        self._rows: NDArray[np.float32] = cached_text_features(
            side.identity, embed, list(self._row_of), cache, advance=advance
        )

    def read(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self._rows[[self._row_of[text] for text in texts]]).to(self._device)


_MAX_LOG_SCALE = math.log(100)  # of the inverse temperature, as CLIP's
_TEXT_BATCH = 256


def nonempty_captions(picture: EvalImage) -> list[str]:
    """Its captions that say something."""
    return [caption for caption in picture.captions if normalized_text(caption)]


class ContrastiveHead(nn.Module):
    """Pooling and linear layer of the image side, and the temperature."""

    undecayed = tuple(f"probe.{name}" for name in AttentiveProbe.undecayed)

    def __init__(self, width: int, shared: int, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        self.probe = AttentiveProbe(width, shared, generator)
        self.sharpness = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → [B, E], L2-normalised."""
        return F.normalize(self.probe(patches).float(), dim=-1)

    def loss(self, images: Tensor, texts: Tensor, keys: Sequence[str]) -> Tensor:
        """Symmetric cross-entropy over the batch.

        Args:
            images, texts: [B, E], L2-normalised, row-aligned.
            keys: what each text says. Where another picture's text says the same, the two are no rivals: whatever was
                right for one would be wrong for the other.
        """
        scores = self.sharpness.clamp(max=_MAX_LOG_SCALE).exp() * images @ texts.T
        said = torch.from_numpy(np.unique(keys, return_inverse=True)[1]).to(scores.device)
        same = (said[:, None] == said[None]).fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


@dataclass(frozen=True)
class FittedMatcher:
    """A trained head between a ground and a reader.

    Attributes:
        losses: of each step, in order.
    """

    head: ContrastiveHead
    reader: CaptionFeatures
    losses: list[float]

    @torch.inference_mode()
    def images(self, view: ImageBatchSource, rows: Ints) -> NDArray[np.float32]:
        """[n, E] features of the pictures ``rows`` of ``view``, L2-normalised."""
        parts = (rows[start : start + view.at_once] for start in range(0, len(rows), view.at_once))
        found = [self.head(view.tokens(loaded)).cpu() for loaded in prefetch_map(view.load, parts)]
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, E] features of ``texts``, L2-normalised."""
        parts = (texts[start : start + _TEXT_BATCH] for start in range(0, len(texts), _TEXT_BATCH))
        return torch.cat([F.normalize(self.reader.read(part).float(), dim=-1).cpu() for part in parts]).numpy()


def fit_matcher(
    ground: FeatureSource,
    view: ImageBatchSource,
    pictures: list[EvalImage],
    rows: Ints,
    reader: CaptionFeatures,
    spec: TunedRetrievalSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> FittedMatcher:
    """Contrastive learning from the pictures ``rows``, each with one of its captions, drawn anew every pass.

    Deterministic by ``seed``.

    Args:
        pictures: those of ``view``; the ones at ``rows`` have captions.
        field: of the evaluation's spec that holds ``spec``, for messages.
        on_step: called with the number of pictures of each step.

    Raises:
        UserError: ``tuning_diverged``, or a picture that cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    head = ContrastiveHead(ground.width, reader.width, spec.temperature, generator).to(ground.device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, list[str]]]:
        order = torch.randperm(len(rows), generator=generator).split(spec.batch_size)
        whole = [picks for picks in order if len(picks) > 1] or list(order)  # one picture alone has no rival
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(whole)))  # noqa: S311
        return prefetch_map(load, zip(whole, draws, strict=True))

    def load(job: tuple[Tensor, random.Random]) -> tuple[Tensor, list[str]]:
        picks, draw = job
        chosen = rows[picks.numpy()]
        captions = [draw.choice(nonempty_captions(pictures[row])) for row in chosen]
        return view.load(chosen, draw), captions

    def loss(batch: tuple[Tensor, list[str]]) -> Tensor:
        loaded, captions = batch
        texts = F.normalize(reader.read(captions).float(), dim=-1)
        return head.loss(head(view.tokens(loaded)), texts, [normalized_text(caption) for caption in captions])

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a text encoder may drop out while it learns
        losses = train_head(
            head, batches, loss, spec, steps=count_steps(spec, len(rows)), field=field, tower=ground.tower,
            beside=[(reader.module, spec.text_lr)] if reader.module is not None else [],
            precision=ground.precision, on_step=lambda batch: on_step(len(batch[1])),
        )  # fmt: skip
    return FittedMatcher(head, reader, losses)
