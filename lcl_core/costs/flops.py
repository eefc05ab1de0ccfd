"""Useful floating-point operations: what the mathematics needs, padding and what is computed twice not counted.

The parts are of a forward pass; a training step takes three times as much, since the backward pass is two products for
each of the forward pass's. What a method takes together is in :mod:`.methods`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.costs.sizes import Sizes

STEP = 3.0  # forward passes that a training step costs


def step_flops(
    config: Sizes, lengths: Sequence[float], images: float, labels: float, patches: int | None = None
) -> float:
    """A training step of one pass through each tower over documents of these token lengths.

    Args:
        lengths: tokens of each document, image tokens included.
        images: pictures in them.
        labels: places where a next token is predicted.
        patches: of an image that are looked at; none: all.
    """
    patches = config.num_image_tokens if patches is None else patches
    pictures = vision_flops(config, images, patches) + pooling_flops(config, images, patches)
    return STEP * (pictures + text_flops(config, lengths) + head_flops(config, labels))


def vision_flops(config: Sizes, images: float, patches: int) -> float:
    """The vision tower over images of which ``patches`` patches are looked at."""
    width = config.vision_width
    blocks = (patches + 1) * _block(width, config.mlp_ratio) + _full_attention(patches + 1, width)
    embedding = config.num_image_tokens * 2 * 3 * config.patch_size**2 * width
    return images * (config.vision_layers * blocks + embedding)


def pooling_flops(config: Sizes, images: float, patches: int, *, latents: bool = True, tokens: bool = True) -> float:
    """The pooler's values and, where they are wanted, keys for the latents and projections to tokens."""
    inputs, outputs = config.vision_width, config.text_width
    wanted = inputs + latents * inputs + tokens * outputs
    return images * patches * 2 * wanted * outputs


def text_flops(config: Sizes, lengths: Sequence[float], *, causal: bool = True) -> float:
    """The text tower over documents of these token lengths."""
    width, share = config.text_width, 0.5 if causal else 1.0
    attention = share * sum(_full_attention(length, width) for length in lengths)
    return config.text_layers * (sum(lengths) * _block(width, config.mlp_ratio) + attention)


def head_flops(config: Sizes, labels: float) -> float:
    """Scores of the whole vocabulary at ``labels`` places."""
    return labels * 2.0 * config.text_width * config.vocab_size


def _block(width: int, mlp_ratio: float) -> float:
    """Matrix products of one block for one token: q, k, v, out and the MLP."""
    return 2 * width * width * (4 + 2 * mlp_ratio)


def _full_attention(length: float, width: int) -> float:
    """Scores and mixing of one sequence in one layer."""
    return 4.0 * length * length * width
