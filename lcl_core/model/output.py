"""What a forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch


@dataclass
class LCLOutput(ModelOutput):
    """Losses and what they were made of.

    Attributes:
        loss: the weighted sum.
        contrastive_loss, generation_loss: scalars, each already x its weight.
        image_features, text_features: [M, E] L2-normalised contrastive pairs, row-aligned.
        image_latents: [n, D] pooled latents, not normalised.
        patch_tokens: [n, N, D] the images' tokens in the document.
        hidden: [T, D] the text tower's packed outputs, before any final norm.
        batch: the packed batch that was read (its indices say which row is which token).
    """

    loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    generation_loss: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None
    image_latents: Tensor | None = None
    patch_tokens: Tensor | None = None
    hidden: Tensor | None = None
    batch: PackedBatch | None = None
