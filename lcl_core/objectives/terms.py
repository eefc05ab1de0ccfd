"""What an objective computes of a batch: sums and counts, so that they add up over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils._pytree import register_dataclass

from lcl_core.model.output import Reading
from lcl_core.objectives.offers import Offer


@dataclass(frozen=True)
class Sum:
    """A loss summed over items; the step divides it by the items of the whole effective batch.

    Attributes:
        total: scalar, fp32.
        weight: of the mean in the loss.
    """

    total: Tensor
    weight: float


@dataclass(frozen=True)
class Ratio:
    """A number for people, as ``total / count``: both add up. Scalars without gradient."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class Pairs:
    """Features to be contrasted with those of the whole effective batch.

    Attributes:
        image_features, text_features: [M, E], L2-normalised, row-aligned.
        weight: of the contrastive loss.
    """

    image_features: Tensor
    text_features: Tensor
    weight: float


@dataclass(frozen=True)
class Encoding:
    """The first part of a forward pass, which needs this batch alone.

    Attributes:
        reading: what the towers made of the batch.
        pairs: the contrastive part, if the objective has one.
        offer: what the rest of the effective batch may draw from, if the objective draws.
    """

    reading: Reading
    pairs: Pairs | None = None
    offer: Offer | None = None


@dataclass(frozen=True)
class Losses:
    """The second part.

    Attributes:
        sums: losses by name.
        metrics: other numbers, by name.
    """

    sums: Mapping[str, Sum]
    metrics: Mapping[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True)
class Terms:
    """Everything a batch contributes to the loss and to the metric line.

    Attributes:
        idle: 0, with a gradient of 0 for each parameter that the objective has no use for; none where it uses all.
    """

    encoding: Encoding
    losses: Losses
    idle: Tensor | None = None


for _type in (Sum, Ratio, Pairs, Offer, Encoding, Losses, Terms):  # FSDP looks for tensors in what a forward returns
    register_dataclass(_type)
