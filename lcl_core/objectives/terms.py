"""What an objective computes of a batch: sums, so that they add up over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils._pytree import register_dataclass

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.modeling import LCLModel
    from lcl_core.model.output import Reading


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
class Terms:
    """Everything a batch contributes to the loss.

    Attributes:
        sums: losses by name.
        pairs: the contrastive part, if the objective has one.
        reading: what the model made of the batch.
    """

    sums: Mapping[str, Sum]
    pairs: Pairs | None
    reading: Reading


for _type in (Sum, Pairs, Terms):  # FSDP looks for tensors in what a forward pass returns
    register_dataclass(_type)


@dataclass(frozen=True)
class Objective:
    """A pre-training method.

    Attributes:
        terms: its losses of one batch.
        counts: items that each of its sums runs over, by name, and ``contrastive`` pairs; known on the host before
            the step.
    """

    terms: Callable[[LCLModel, PackedBatch], Terms]
    counts: Callable[[PackedBatch], Mapping[str, int]]
