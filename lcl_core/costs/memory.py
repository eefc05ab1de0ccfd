"""Memory and disk of a training process, in bytes.

What is kept for the backward pass is counted as the blocks keep it (:mod:`lcl_core.model.thrifty`): the two inputs of
their norms in fp32, and in the precision of the products q, k, v, what attention mixed and, in the vision tower, what
the MLP is about to activate. What lives for a moment is the largest block's, and the vocabulary's.
"""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.costs.methods import Load
from lcl_core.costs.parameters import block_parameters
from lcl_core.costs.sizes import Sizes

FP32, HALF = 4, 2
_MOMENTS = 2  # of AdamW
_LOGITS = {FP32: 32 << 20, HALF: 192 << 20}  # of the whole vocabulary that stand at once


@dataclass(frozen=True)
class Memory:
    """Of one process, at its peak.

    Attributes:
        weights, gradients, moments, average: of the parameters, each in fp32; ``average`` is the moving one.
        copies: of the weights in the precision of products, and of what a checkpoint writes meanwhile.
        activations: what a forward pass keeps, and the largest thing that lives for a moment.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.average + self.copies + self.activations


def state_bytes(parameters: int, average: bool) -> int:
    """Of a checkpoint's tensors: weights, both moments, and the moving average if there is one."""
    return FP32 * parameters * (1 + _MOMENTS + average)


def training_memory(
    config: Sizes,
    parameters: int,
    load: Load,
    *,
    image_size: int,
    half: bool,
    average: bool,
    staged: bool,
    checkpointing: bool,
    shards: int = 1,
) -> Memory:
    """At the peak of a step.

    Args:
        load: what one process reads at once.
        half: products in bf16.
        staged: checkpoints are written while steps run, from a copy in this process's memory.
        checkpointing: activations are computed twice.
        shards: processes among which the parameters are divided.
    """
    item, own = HALF if half else FP32, FP32 * parameters // shards
    cast = HALF * _in_blocks(config) if half else 0
    return Memory(
        weights=own,
        gradients=own,
        moments=_MOMENTS * own,
        average=own * average,
        copies=cast + staged * state_bytes(parameters, average) // shards,
        activations=round(_kept(config, load, item, image_size, checkpointing) + _LOGITS[item] * (load.labels > 0)),
    )


def _in_blocks(config: Sizes) -> int:
    vision = config.vision_layers * block_parameters(config, config.vision_width)
    return vision + config.text_layers * block_parameters(config, config.text_width)


def _kept(config: Sizes, load: Load, item: int, image_size: int, checkpointing: bool) -> float:
    seen, words = load.images * (load.patches + 1), float(sum(load.lengths))
    vision = _tower(seen, config.vision_width, config.vision_layers, config.mlp_ratio, item, True, checkpointing)
    text = _tower(words, config.text_width, config.text_layers, config.mlp_ratio, item, False, checkpointing)
    pixels = load.images * 3 * image_size**2 * FP32
    embedded = 3 * load.images * config.num_image_tokens * config.vision_width * FP32
    pooled = load.images * load.patches * (2 * config.vision_width + 3 * config.text_width) * FP32
    passing = max(
        tokens * 3 * config.mlp_ratio * width * item
        for tokens, width in ((seen, config.vision_width), (words, config.text_width))
    )
    return vision + text + pixels + embedded + pooled + passing


def _tower(
    tokens: float, width: int, layers: int, mlp_ratio: float, item: int, hidden: bool, checkpointing: bool
) -> float:
    """What ``layers`` blocks keep; with checkpointing their inputs, and all of the one that is computed again."""
    block = tokens * width * (2 * FP32 + item * (4 + (mlp_ratio if hidden else 0)))
    return tokens * width * FP32 * layers + block if checkpointing else block * layers
