"""A model small enough to run in milliseconds, and documents for it."""

from __future__ import annotations

import pytest
import torch

from lcl_core.model import LCLConfig, LCLModel
from lcl_core.train.factory import build_model
from tests.lcl_core.saved_encoders import drawings, encoder, encoders, sample  # noqa: F401

SOT, EOT, IMG, SOI, EOI = 95, 96, 97, 98, 99


@pytest.fixture
def small_config() -> LCLConfig:
    return LCLConfig(
        image_size=16,
        patch_size=8,
        vision_width=32,
        vision_layers=2,
        vision_head_width=16,
        text_width=24,
        text_layers=2,
        text_heads=2,
        context_length=40,
        vocab_size=100,
        sot_token_id=SOT,
        eot_token_id=EOT,
        img_token_id=IMG,
        soi_token_id=SOI,
        eoi_token_id=EOI,
    )


@pytest.fixture
def small_model(small_config: LCLConfig) -> LCLModel:
    return build_model(small_config, seed=0)


@pytest.fixture
def image_tokens() -> list[int]:
    """One image's place in a document of the small model."""
    return [SOI, *[IMG] * 4, EOI]


@pytest.fixture
def documents(image_tokens: list[int]) -> list[torch.Tensor]:
    """Four documents: text first; two images; image at once after the start; a pair with the image first."""
    return [
        torch.tensor([SOT, 5, 6, 7, *image_tokens, 8, EOT]),
        torch.tensor([SOT, 9, *image_tokens, 10, 11, *image_tokens, EOT]),
        torch.tensor([SOT, *image_tokens, 12, 13, 14, EOT]),
        torch.tensor([*image_tokens, 15, 16, EOT]),
    ]


@pytest.fixture
def pixels() -> torch.Tensor:
    """The five images of ``documents``, or of ``pairs``."""
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pairs(image_tokens: list[int]) -> list[torch.Tensor]:
    """Five pairs in either order; two have the same text."""
    return [
        torch.tensor([SOT, 5, 6, 7, 8, *image_tokens]),
        torch.tensor([*image_tokens, 9, 10, 11, EOT]),
        torch.tensor([*image_tokens, 12, 13, EOT]),
        torch.tensor([SOT, 12, 13, *image_tokens]),
        torch.tensor([SOT, 14, *image_tokens]),
    ]
