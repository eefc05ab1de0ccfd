"""Useful floating-point operations of a training step: what the mathematics needs, padding not counted."""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.model.batch import PackedBatch
from lcl_core.model.configuration import LCLConfig


def batch_flops(config: LCLConfig, batch: PackedBatch) -> float:
    """:func:`step_flops` of a batch that lies on the host."""
    patches = None if batch.patches is None else batch.patches.shape[1]
    return step_flops(config, batch.lengths, len(batch.pixel_values), len(batch.labels), patches)


def step_flops(
    config: LCLConfig, lengths: Sequence[int], images: int, labels: int, patches: int | None = None
) -> float:
    """Forward and backward (twice the forward) of documents of these token lengths.

    Args:
        lengths: tokens of each document, image tokens included.
        images: pictures in them.
        labels: places where a next token is predicted.
        patches: of an image that are looked at; none: all.
    """
    patches = config.num_image_tokens if patches is None else patches
    vision = images * (patches + 1) * _block(config.vision_width, config.mlp_ratio) * config.vision_layers
    vision += images * config.vision_layers * _full_attention(patches + 1, config.vision_width)
    vision += images * config.num_image_tokens * 2 * 3 * config.patch_size**2 * config.vision_width
    pool = images * patches * 2 * (2 * config.vision_width + config.text_width) * config.text_width
    text = sum(lengths) * _block(config.text_width, config.mlp_ratio) * config.text_layers
    text += sum(_full_attention(length, config.text_width) / 2 for length in lengths) * config.text_layers
    head = labels * 2 * config.text_width * config.vocab_size
    return 3.0 * (vision + pool + text + head)


def _block(width: int, mlp_ratio: float) -> float:
    """Matrix products of one block for one token: q, k, v, out and the MLP."""
    return 2 * width * width * (4 + 2 * mlp_ratio)


def _full_attention(length: int, width: int) -> float:
    """Scores and mixing of one sequence in one layer."""
    return 4.0 * length * length * width
