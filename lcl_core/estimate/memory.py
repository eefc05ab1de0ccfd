"""Parameters, memory and disk of a training process.

Activations are counted as the blocks save them (:mod:`lcl_core.ops.recompute`): the two inputs of their norms in fp32,
and in the precision of the products q, k, v, the attention output and, in the vision tower, the MLP's pre-activation.
Transient memory is the largest block's, and the vocabulary's logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.estimate.flops import Sizes, Workload, convolution_counts
from lcl_core.specs.pretrain import ModelPart, ObjectiveSpec, PretrainSpec
from lcl_core.specs.vision import tower_kind

FP32, HALF = 4, 2
_MOMENTS = 2  # of AdamW
_RECOMPUTED = 0.25  # share of a convolutional tower's activations that checkpointing keeps
_LOGITS = {FP32: 32 << 20, HALF: 192 << 20}  # logits in memory at once


def model_parameters(config: Sizes) -> int:
    """Parameters of all parts and the temperature."""
    return sum(part_parameters(config).values()) + 1


def part_parameters(config: Sizes) -> dict[ModelPart, int]:
    """Parameters of the parts that can be frozen. Raises: UserError as :func:`convolution_counts`."""
    inputs, outputs, vocabulary = config.vision_width, config.text_width, config.vocab_size
    vision = convolution_counts(config).parameters
    if tower_kind(config.vision).patchwise:
        vision += (config.num_image_tokens + 2) * inputs + 4 * inputs  # positions, class token, two norms
        vision += config.vision_layers * _block_parameters(config, inputs)
    embeddings = (vocabulary + config.context_length) * outputs
    return {
        "vision": vision,
        "pooler": 7 * inputs + 3 * inputs * outputs + 3 * outputs + outputs**2,
        "text": embeddings + config.text_layers * _block_parameters(config, outputs) + 2 * outputs + outputs**2,
        "head": (vocabulary + 2) * outputs,
    }


def _block_parameters(config: Sizes, width: int) -> int:
    """Two norms, q, k, v and out with biases, and the MLP."""
    hidden = int(width * config.mlp_ratio)
    return 4 * width + 4 * width * (width + 1) + 2 * width * hidden + hidden + width


def method_parameters(objective: ObjectiveSpec, config: Sizes) -> int:
    """Trained parameters of an objective beside the model's; never exported."""
    width, pixels = config.text_width, 3 * config.patch_size**2
    own = {
        "emu": 2 * width + width * (width + 1),
        "blip2": 2 * width + 2 * (width + 1),
        "beit3": config.vision_width + 3 * width + pixels * (width + 1),
    }
    return own.get(objective.name, 0)


def target_parameters(objective: ObjectiveSpec, config: Sizes) -> int:
    """Parameters of a moving average of the encoder, which are not trained; 0 without one."""
    parts = part_parameters(config)
    return parts["vision"] + parts["pooler"] if objective.averages_encoder else 0


def state_bytes(parameters: int, frozen: int) -> int:
    """Of a checkpoint's tensors: weights, and of those that are trained both moments."""
    return FP32 * (parameters + (parameters - frozen) * _MOMENTS)


def training_memory(
    spec: PretrainSpec, config: Sizes, load: Workload, parameters: int, frozen: int, *, half: bool, staged: bool
) -> dict[str, int]:
    """Bytes of one process at the peak of a step, by part.

    Args:
        load: of one process and micro-batch.
        parameters, frozen: with those of the method; those among them that are not trained.
        half: products in bf16.
        staged: checkpoints are written while steps run, from a copy in this process's memory.
    """
    engine = spec.engine
    processes, item = engine.nodes * engine.processes, HALF if half else FP32
    shards = processes if engine.strategy == "fsdp2" else 1
    trained = FP32 * (parameters - frozen) // shards
    copies = staged * state_bytes(parameters, frozen) // shards
    if half:  # a copy of the blocks' weights
        copies += HALF * config.text_layers * _block_parameters(config, config.text_width)
        if tower_kind(config.vision).patchwise:
            copies += HALF * config.vision_layers * _block_parameters(config, config.vision_width)
        else:
            copies += HALF * part_parameters(config)["vision"]
    if spec.monitor is not None:
        copies += FP32 * parameters
    activations = _activation_bytes(config, load, item, spec.model.image_size, engine.activation_checkpointing)
    if load.matched:  # tokens of the images of all processes, and what the matching head keeps of those of its rows
        image = load.patches * config.text_width
        activations += load.images * engine.accumulate * processes * image * item
        activations += 3 * load.images * image * (FP32 + item)
    activations += _LOGITS[item] * (load.labels > 0)
    return {
        "weights": FP32 * parameters // shards,
        "gradients": trained,
        "moments": _MOMENTS * trained,
        "copies": copies,
        "activations": round(activations),
    }


def _activation_bytes(config: Sizes, load: Workload, item: int, image_size: int, checkpointing: bool) -> float:
    patches, words = load.images * (load.patches + 1), [float(sum(load.lengths)), float(sum(load.matched))]
    if tower_kind(config.vision).patchwise:
        block = config.vision_width * (2 * FP32 + item * (4 + config.mlp_ratio))
        vision = _tower_bytes([patches], config.vision_width, config.vision_layers, block, checkpointing)
    else:
        vision = load.images * convolution_counts(config).outputs * FP32 * (_RECOMPUTED if checkpointing else 1)
    text = _tower_bytes(
        words, config.text_width, config.text_layers, config.text_width * (2 * FP32 + item * 4), checkpointing
    )
    pixels = load.images * 3 * image_size**2 * FP32
    embedded = 3 * load.images * config.num_image_tokens * config.vision_width * FP32
    pooled = load.images * load.patches * (2 * config.vision_width + 3 * config.text_width) * FP32
    widest = max(patches * config.vision_width, max(words) * config.text_width)
    return vision + text + pixels + embedded + pooled + 3 * config.mlp_ratio * widest * item


def _tower_bytes(passes: Sequence[float], width: int, layers: int, block: float, checkpointing: bool) -> float:
    """Kept by the blocks: ``block`` bytes a token; with checkpointing their inputs, and all of the one recomputed.

    ``passes``: tokens of each pass through the tower.
    """
    if checkpointing:
        return sum(passes) * width * FP32 * layers + max(passes) * block
    return sum(passes) * block * layers


def kept_checkpoints(spec: PretrainSpec, first: int) -> int:
    """Checkpoints on disk at the end: the newest ones, and the milestones.

    ``first``: step of the checkpoint that the run starts from, which is one of them; 0: none.
    """
    every, milestone_every = spec.checkpoint_every, spec.milestone_every
    written = [*range((first // every + 1) * every, spec.steps, every), spec.steps]
    written = [first, *written] if first else written
    milestones = {step for step in written if milestone_every and step % milestone_every == 0}
    return len({*written[-spec.keep_checkpoints :], *milestones})
