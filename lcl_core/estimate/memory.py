"""Parameters, memory and disk of a training process.

Activations are counted as the blocks save them (:mod:`lcl_core.ops.recompute`): the two inputs of their norms in fp32,
and in the precision of the products q, k, v, the attention output and, in the vision tower, the MLP's pre-activation.
Transient memory is the largest block's, and the vocabulary's logits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lcl_core.estimate.flops import Sizes, Workload, convolution_counts
from lcl_core.specs.pretrain import ModelPart, ObjectiveSpec
from lcl_core.specs.vision import tower_kind


def model_parameters(config: Sizes) -> int:
    """Parameters of both towers, the pooler, the language-model head and the temperature."""
    return vision_parameters(config) + pooler_parameters(config) + text_parameters(config) + 1


def vision_parameters(config: Sizes) -> int:
    """Raises: UserError as :func:`convolution_counts`."""
    width, total = config.vision_width, convolution_counts(config).parameters
    if tower_kind(config.vision).patchwise:
        total += (config.num_image_tokens + 2) * width + 4 * width  # positions, class token, two norms
        total += config.vision_layers * block_parameters(config, width)
    return total


def pooler_parameters(config: Sizes) -> int:
    inputs, outputs = config.vision_width, config.text_width
    return 7 * inputs + 3 * inputs * outputs + 3 * outputs + outputs**2


def text_parameters(config: Sizes) -> int:
    """The text tower with its embeddings, the contrastive projection and the head."""
    width = config.text_width
    tables = (2 * config.vocab_size + config.context_length) * width
    return tables + config.text_layers * block_parameters(config, width) + 4 * width + width**2


def frozen_parameters(config: Sizes, parts: Collection[ModelPart]) -> int:
    """Parameters of the parts that are not trained."""
    head = (config.vocab_size + 2) * config.text_width
    counts: dict[ModelPart, int] = {
        "vision": vision_parameters(config),
        "pooler": pooler_parameters(config),
        "text": text_parameters(config) - head,
        "head": head,
    }
    return sum(count for part, count in counts.items() if part in parts)


def block_parameters(config: Sizes, width: int) -> int:
    """Two norms, q, k, v and out with biases, and the MLP."""
    hidden = int(width * config.mlp_ratio)
    return 4 * width + 4 * width * (width + 1) + 2 * width * hidden + hidden + width


def method_parameters(objective: ObjectiveSpec, config: Sizes) -> int:
    """Parameters of an objective beside the model's, with those of ``target_parameters``; never exported."""
    width, pixels = config.text_width, 3 * config.patch_size**2
    own = {
        "emu": 2 * width + width * (width + 1),
        "blip2": 2 * width + 2 * (width + 1),
        "beit3": config.vision_width + 3 * width + pixels * (width + 1),
    }
    return own.get(objective.name, 0) + target_parameters(objective, config)


def target_parameters(objective: ObjectiveSpec, config: Sizes) -> int:
    """Parameters of a moving average of the encoder, which are not trained; 0 without one."""
    return vision_parameters(config) + pooler_parameters(config) if objective.averages_encoder else 0


FP32, HALF = 4, 2
_MOMENTS = 2  # of AdamW
_RECOMPUTED = 0.25  # share of a convolutional tower's activations that checkpointing keeps
_LOGITS = {FP32: 32 << 20, HALF: 192 << 20}  # logits in memory at once


@dataclass(frozen=True)
class Memory:
    """Of one process, at its peak.

    Attributes:
        weights, gradients, moments: of the parameters, each in fp32.
        copies: of the weights in the precision of products, and of a checkpoint being written.
        activations: kept by a forward pass, and the largest transient.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.copies + self.activations


def state_bytes(parameters: int, frozen: int = 0) -> int:
    """Of a checkpoint's tensors: weights, and of those that are trained both moments."""
    return FP32 * (parameters + (parameters - frozen) * _MOMENTS)


def training_memory(
    config: Sizes,
    parameters: int,
    load: Workload,
    *,
    image_size: int,
    half: bool,
    staged: bool,
    checkpointing: bool,
    shards: int = 1,
    frozen: int = 0,
    step_images: float = 0.0,
) -> Memory:
    """At the peak of a step.

    Args:
        load: of one process and micro-batch.
        half: products in bf16.
        staged: checkpoints are written while steps run, from a copy in this process's memory.
        checkpointing: activations are recomputed.
        shards: processes among which the parameters are divided.
        frozen: parameters that are not trained.
        step_images: images of the whole step, of all processes; where images are matched with texts of the step, each
            process has the tokens of them all.
    """
    item, own, trained = HALF if half else FP32, FP32 * parameters // shards, FP32 * (parameters - frozen) // shards
    cast = 0
    if half:  # a copy of the blocks' weights
        cast = HALF * config.text_layers * block_parameters(config, config.text_width)
        if tower_kind(config.vision).patchwise:
            cast += HALF * config.vision_layers * block_parameters(config, config.vision_width)
        else:
            cast += HALF * vision_parameters(config)
    matching = 0.0
    if load.matched:  # tokens of the step's images, and what the matching head keeps of those of its rows
        image = load.patches * config.text_width
        matching = step_images * image * item + 3 * load.images * image * (FP32 + item)
    return Memory(
        weights=own,
        gradients=trained,
        moments=_MOMENTS * trained,
        copies=cast + staged * state_bytes(parameters, frozen) // shards,
        activations=round(
            _activation_bytes(config, load, item, image_size, checkpointing)
            + matching
            + _LOGITS[item] * (load.labels > 0)
        ),
    )


def _activation_bytes(config: Sizes, load: Workload, item: int, image_size: int, checkpointing: bool) -> float:
    patches, words = load.images * (load.patches + 1), [float(sum(load.lengths)), float(sum(load.matched))]
    if tower_kind(config.vision).patchwise:
        vision = _tower_bytes(
            [patches], config.vision_width, config.vision_layers, config.mlp_ratio, item, True, checkpointing
        )
    else:
        vision = load.images * convolution_counts(config).outputs * FP32
        vision *= _RECOMPUTED if checkpointing else 1
    text = _tower_bytes(words, config.text_width, config.text_layers, config.mlp_ratio, item, False, checkpointing)
    pixels = load.images * 3 * image_size**2 * FP32
    embedded = 3 * load.images * config.num_image_tokens * config.vision_width * FP32
    pooled = load.images * load.patches * (2 * config.vision_width + 3 * config.text_width) * FP32
    transient = max(
        tokens * 3 * config.mlp_ratio * width * item
        for tokens, width in ((patches, config.vision_width), (max(words), config.text_width))
    )
    return vision + text + pixels + embedded + pooled + transient


def _tower_bytes(
    passes: Sequence[float], width: int, layers: int, mlp_ratio: float, item: int, hidden: bool, checkpointing: bool
) -> float:
    """Bytes kept by ``layers`` blocks; with checkpointing their inputs, and all of the one that is recomputed.

    ``passes``: tokens of each pass through the tower.
    """
    block = width * (2 * FP32 + item * (4 + (mlp_ratio if hidden else 0)))
    if checkpointing:
        return sum(passes) * width * FP32 * layers + max(passes) * block
    return sum(passes) * block * layers


def kept_checkpoints(steps: int, every: int, keep: int, milestone_every: int | None, first: int = 0) -> int:
    """Checkpoints on disk at the end: one each ``every`` steps and at the last; the newest ``keep`` and milestones.

    ``first``: step of the checkpoint that the run starts from, which is one of them; 0: none.
    """
    start = [first] if first else []
    newest = [steps, *range(steps - (steps % every or every), first, -every)[: keep - 1]]
    newest += start if len(newest) < keep else []
    if milestone_every is None:
        return len(newest)
    common = math.lcm(every, milestone_every)
    irregular = [*([steps] if steps % every else []), *start]
    milestones = steps // common - first // common + sum(step % milestone_every == 0 for step in irregular)
    return len(newest) + milestones - sum(step % milestone_every == 0 for step in newest)
