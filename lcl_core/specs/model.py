"""Sizes of a model, and its vocabulary."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Spec


class ModelSpec(Spec):
    """Sizes of the two towers and the pooler (Method section; the paper's ViT-B/32 is 768 x 12 with 512 x 12)."""

    image_size: int = Field(64, ge=16, le=1024, description="side of the square input, pixels")
    patch_size: int = Field(16, ge=2, le=128, description="side of a patch, pixels; divides image_size")
    vision_width: int = Field(192, ge=16, le=4096)
    vision_layers: int = Field(6, ge=1, le=64)
    vision_head_width: int = Field(64, ge=8, le=256)
    text_width: int = Field(192, ge=16, le=4096)
    text_layers: int = Field(4, ge=1, le=64)
    text_heads: int = Field(3, ge=1, le=64)
    context_length: int = Field(256, ge=8, le=65536, description="longest document, tokens (position table)")

    @model_validator(mode="after")
    def _sizes_divide(self) -> ModelSpec:
        for large, small in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_head_width"),
            ("text_width", "text_heads"),
        ):
            if getattr(self, large) % getattr(self, small):
                raise ValueError(
                    f"{large} {getattr(self, large)} must be a multiple of {small} {getattr(self, small)}"
                )
        if self.num_image_tokens + 3 > self.context_length:
            raise ValueError(
                f"context_length {self.context_length} cannot hold one image of {self.num_image_tokens} tokens; "
                "raise it or patch_size"
            )
        return self

    @property
    def num_image_tokens(self) -> int:
        """Patch tokens an image takes in the document."""
        return (self.image_size // self.patch_size) ** 2


class TokenizerSpec(Spec):
    kind: Literal["bpe", "clip"] = Field("bpe", description="trained on the corpus, or CLIP's 49,408 tokens")
    vocab_size: int = Field(4096, ge=300, le=200_000, description="for bpe: tokens without the five specials")
