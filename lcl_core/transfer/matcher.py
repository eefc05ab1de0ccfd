"""A head that learns to match pictures with their texts (paper, transfer heads (b)), frozen or with the encoder.

Image side: attentive pooling and a linear layer; text side: a text encoder. Both are L2-normalised and compared by dot
product. B pictures a step, E numbers a feature.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.specs import TunedRetrievalSpec
from lcl_core.transfer.ahead import ahead
from lcl_core.transfer.gallery import Picture, text_key
from lcl_core.transfer.ground import Ground, View
from lcl_core.transfer.probe import AttentiveProbe
from lcl_core.transfer.ranking import Ints
from lcl_core.transfer.readers import Reader
from lcl_core.transfer.tuning import steps_of, tune

_MOST_SHARP = math.log(100)  # of the inverse temperature, as CLIP's
_TEXTS_AT_ONCE = 256


def spoken(picture: Picture) -> list[str]:
    """Its captions that say something."""
    return [caption for caption in picture.captions if text_key(caption)]


class MatchingHead(nn.Module):
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
        scores = self.sharpness.clamp(max=_MOST_SHARP).exp() * images @ texts.T
        said = torch.from_numpy(np.unique(keys, return_inverse=True)[1]).to(scores.device)
        same = (said[:, None] == said[None]).fill_diagonal_(False)
        scores = scores.masked_fill(same, -torch.inf)
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


@dataclass(frozen=True)
class Matcher:
    """A trained head between a ground and a reader.

    Attributes:
        losses: of each step, in order.
    """

    head: MatchingHead
    reader: Reader
    losses: list[float]

    @torch.inference_mode()
    def images(self, view: View, rows: Ints) -> NDArray[np.float32]:
        """[n, E] features of the pictures ``rows`` of ``view``, L2-normalised."""
        parts = (rows[start : start + view.at_once] for start in range(0, len(rows), view.at_once))
        found = [self.head(view.tokens(loaded)).cpu() for loaded in ahead(view.load, parts)]
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, E] features of ``texts``, L2-normalised."""
        parts = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
        return torch.cat([F.normalize(self.reader.read(part).float(), dim=-1).cpu() for part in parts]).numpy()


def learn_to_match(
    ground: Ground,
    view: View,
    pictures: list[Picture],
    rows: Ints,
    reader: Reader,
    spec: TunedRetrievalSpec,
    *,
    seed: int,
    field: str,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> Matcher:
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
    head = MatchingHead(ground.width, reader.width, spec.temperature, generator).to(ground.device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, list[str]]]:
        order = torch.randperm(len(rows), generator=generator).split(spec.batch_size)
        whole = [picks for picks in order if len(picks) > 1] or list(order)  # one picture alone has no rival
        draws = (random.Random(f"{seed} {epoch} {number}") for number in range(len(whole)))  # noqa: S311
        return ahead(load, zip(whole, draws, strict=True))

    def load(job: tuple[Tensor, random.Random]) -> tuple[Tensor, list[str]]:
        picks, draw = job
        chosen = rows[picks.numpy()]
        captions = [draw.choice(spoken(pictures[row])) for row in chosen]
        return view.load(chosen, draw), captions

    def loss(batch: tuple[Tensor, list[str]]) -> Tensor:
        loaded, captions = batch
        texts = F.normalize(reader.read(captions).float(), dim=-1)
        return head.loss(head(view.tokens(loaded)), texts, [text_key(caption) for caption in captions])

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a text encoder may drop out while it learns
        losses = tune(
            head, batches, loss, spec, steps=steps_of(spec, len(rows)), field=field, tower=ground.tower,
            beside=[(reader.module, spec.text_lr)] if reader.module is not None else [],
            precision=ground.precision, on_step=lambda batch: on_step(len(batch[1])),
        )  # fmt: skip
    return Matcher(head, reader, losses)
