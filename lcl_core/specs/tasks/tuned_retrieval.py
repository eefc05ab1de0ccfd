"""Retrieval with heads that are trained."""

from __future__ import annotations

from pydantic import Field

from lcl_core.specs.base import Name
from lcl_core.specs.tuning import TuningSpec


class TunedRetrievalSpec(TuningSpec):
    """Attentive pooling and a linear layer for pictures, a text encoder for texts (paper, transfer heads (b))."""

    train_split: Name = Field("train", description="split to learn from")
    text_encoder: Name | None = Field(
        None, description="registered encoder that reads the texts; none: the examined encoder's own text side"
    )
    text_lr: float = Field(
        5e-5, ge=0, le=1, description="of the text encoder, which learns along; 0: it is frozen, which is much faster"
    )
    temperature: float = Field(0.07, gt=0, le=10, description="of the contrastive loss at the start; it is learnt")
    epochs: int = Field(10, ge=1, le=1000)
    batch_size: int = Field(256, ge=2, le=65_536, description="pictures that are told apart in a step")
