"""What the model makes of a batch, and what a forward pass returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch


class Reading(NamedTuple):
    """Activations of a packed batch.

    Attributes:
        image_latents: [n, D] pooled latents, not normalised.
        patch_tokens: [n, N, D] the images' tokens in the document; none where the method reads texts alone.
        hidden: [T, D] the text tower's packed outputs, before any final norm.
    """

    image_latents: Tensor
    patch_tokens: Tensor | None
    hidden: Tensor


@dataclass
class LCLOutput(ModelOutput):
    """Losses and what they were made of.

    Attributes:
        loss: the weighted sum.
        losses: each loss by name, already x its weight.
        contrastive_loss, generation_loss: those two of them, where the objective has them.
        image_features, text_features: [M, E] L2-normalised contrastive pairs, row-aligned.
        image_latents, patch_tokens, hidden: as in :class:`Reading`.
        batch: the packed batch that was read (its indices say which row is which token).
    """

    loss: Tensor | None = None
    losses: Mapping[str, Tensor] | None = None
    contrastive_loss: Tensor | None = None
    generation_loss: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    image_latents: Tensor | None = None
    patch_tokens: Tensor | None = None
    hidden: Tensor | None = None
    batch: PackedBatch | None = None
