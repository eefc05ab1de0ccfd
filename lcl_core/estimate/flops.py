"""Parameters and useful floating-point operations of models and objectives, without padding and recomputation.

Functions count a forward pass; a training step takes three times as much, since the backward pass is two products for
each of the forward pass's. Every formula is linear in documents, so a mean document times their number gives the
expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import NamedTuple, Protocol, cast

from lcl_core.specs.pretrain import (
    IMAGE_MASK_RATIO,
    TEXT_CONTEXT_LENGTH,
    TEXT_MASK_RATIO,
    MethodName,
    ModelPart,
    ObjectiveSpec,
    PretrainSpec,
)
from lcl_core.specs.vision import TowerSizes, build_timm_network, tower_kind

CLIP_TOKENS = 49_411  # of CLIP's vocabulary, the three of images among them
SPECIALS = 5  # of a vocabulary that is learnt
MLP_RATIO = 4  # of every model that a spec describes
FORWARDS_PER_STEP = 3.0  # forward passes that a training step costs
DELIMITERS = 2  # <soi> and <eoi> of an image; start and end of a text


class Sizes(Protocol):
    """A model's configuration has them all. ``num_image_tokens``: patches of a whole image."""

    vision: str
    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int
    vocab_size: int

    @property
    def num_image_tokens(self) -> int: ...


def model_sizes(spec: PretrainSpec) -> Sizes:
    """Sizes of a spec's model, whose vocabulary is as large as the spec allows."""
    vocabulary = CLIP_TOKENS if spec.tokenizer.kind == "clip" else spec.tokenizer.vocab_size + SPECIALS
    sizes = {**spec.model.model_dump(), "num_image_tokens": spec.model.num_image_tokens, "vocab_size": vocabulary}
    return cast(Sizes, SimpleNamespace(**sizes))


# ---- vision towers


class TowerCounts(NamedTuple):
    """Counts of a vision tower for one image, without the ViT's transformer.

    ``outputs``: numbers that its layers with weights compute.
    """

    parameters: int
    flops: float
    outputs: int


def convolution_counts(config: Sizes) -> TowerCounts:
    """Counts of the convolutions."""
    sizes = TowerSizes(config.patch_size, config.vision_width, config.vision_layers, config.num_image_tokens)
    convolutions = tower_kind(config.vision).convolutions
    if convolutions is None:
        return _timm_counts(config.vision, math.isqrt(sizes.patches) * sizes.patch_size, sizes.patch_size, sizes.width)
    tensors = [each for each in convolutions(sizes).values() if each.trained]
    matrices = [each for each in tensors if len(each.shape) > 1]
    return TowerCounts(
        parameters=sum(math.prod(each.shape) for each in tensors),
        flops=sum(2 * math.prod(each.shape) * each.positions for each in matrices),
        outputs=sum(each.shape[0] * each.positions for each in matrices),
    )


@lru_cache(maxsize=64)
def _timm_counts(vision: str, image_size: int, patch_size: int, width: int) -> TowerCounts:
    """By a forward pass of shapes alone, on torch's meta device."""
    torch, counters = import_module("torch"), import_module("torch.utils.flop_counter")
    outputs: list[int] = []
    with torch.device("meta"), torch.no_grad():
        network = build_timm_network(vision, image_size, patch_size, width).eval()
        for module in network.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(lambda _module, _given, made: outputs.append(int(made.numel())))
        with counters.FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, image_size, image_size))
    parameters = sum(parameter.numel() for parameter in network.parameters()) + 2 * width  # with the last norm
    return TowerCounts(parameters, counter.get_total_flops(), sum(outputs))


# ---- parameters


def part_parameters(config: Sizes) -> dict[ModelPart, int]:
    """Parameters of the parts that can be frozen. Raises: UserError where timm has no such network."""
    inputs, outputs, vocabulary = config.vision_width, config.text_width, config.vocab_size
    vision = convolution_counts(config).parameters
    if tower_kind(config.vision).patchwise:
        vision += (config.num_image_tokens + 2) * inputs + 4 * inputs  # positions, class token, two norms
        vision += config.vision_layers * block_parameters(inputs)
    embeddings = (vocabulary + config.context_length) * outputs
    return {
        "vision": vision,
        "pooler": 7 * inputs + 3 * inputs * outputs + 3 * outputs + outputs**2,
        "text": embeddings + config.text_layers * block_parameters(outputs) + 2 * outputs + outputs**2,
        "head": (vocabulary + 2) * outputs,
    }


def block_parameters(width: int) -> int:
    """Two norms, q, k, v and out with biases, and the MLP."""
    return 4 * width + 4 * width * (width + 1) + 2 * MLP_RATIO * width**2 + (MLP_RATIO + 1) * width


def model_parameters(config: Sizes) -> int:
    """Parameters of all parts and the temperature."""
    return sum(part_parameters(config).values()) + 1


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


# ---- operations


@dataclass(frozen=True)
class Workload:
    """Counts of a forward pass; they may be means.

    Attributes:
        images, patches: images, and encoded patches of each.
        lengths: tokens of each row of the text tower, with those of images.
        labels: positions at which a token is predicted.
        restored: masked patches that are predicted.
        matched: tokens of each row of a later pass of the text tower with full attention.
    """

    images: float
    patches: int
    lengths: Sequence[float]
    labels: float
    restored: float = 0.0
    matched: Sequence[float] = ()


def vision_flops(config: Sizes, images: float, patches: int) -> float:
    """The vision tower over images of which ``patches`` patches are encoded."""
    total = convolution_counts(config).flops
    if tower_kind(config.vision).patchwise:
        total += _blocks_flops(config.vision_width, config.vision_layers, [patches + 1])
    return images * total


def encoder_flops(config: Sizes, load: Workload, *, latents: bool = True, tokens: bool = True) -> float:
    """The vision tower, the pooler's values, and optionally keys for the latents and projections to tokens."""
    widths = config.vision_width * (1 + latents) + config.text_width * tokens
    pooling = load.images * load.patches * 2 * widths * config.text_width
    return vision_flops(config, load.images, load.patches) + pooling


def target_flops(config: Sizes, load: Workload) -> float:
    """A moving average of the encoder, whose tokens are targets: a forward pass alone."""
    return encoder_flops(config, load, latents=False)


def lcl_flops(
    config: Sizes, load: Workload, *, latents: bool = True, tokens: bool = True, causal: bool = True
) -> float:
    """One pass over images and rows, with logits of the whole vocabulary at the labels."""
    text = _blocks_flops(config.text_width, config.text_layers, load.lengths, 0.5 if causal else 1.0)
    head = load.labels * 2.0 * config.text_width * config.vocab_size
    return encoder_flops(config, load, latents=latents, tokens=tokens) + text + head


def _blocks_flops(width: int, layers: int, lengths: Sequence[float], attended: float = 1.0) -> float:
    """A transformer over rows of these lengths. ``attended``: share of the pairs of positions."""
    products = 2 * width * width * (4 + 2 * MLP_RATIO) * sum(lengths)  # q, k, v, out and the MLP
    attention = 4.0 * width * sum(length * length for length in lengths)  # scores and mixing
    return layers * (products + attended * attention)


def _beit3_flops(config: Sizes, load: Workload) -> float:
    restoring = load.restored * 2 * config.text_width * 3 * config.patch_size**2
    return lcl_flops(config, load, latents=False, causal=False) + restoring


def _emu_flops(config: Sizes, load: Workload) -> float:
    return lcl_flops(config, load, latents=False) + load.images * load.patches * 2 * config.text_width**2


FORWARD_FLOPS: Mapping[MethodName, Callable[[Sizes, Workload], float]] = {
    "lcl": lcl_flops,
    "clip": lambda config, load: lcl_flops(config, load, tokens=False),
    "coca": lcl_flops,
    "blip2": lambda config, load: (
        lcl_flops(config, load) + _blocks_flops(config.text_width, config.text_layers, load.matched)
    ),
    "beit3": _beit3_flops,
    "flamingo": lambda config, load: lcl_flops(config, load, latents=False),
    "emu": _emu_flops,
}


def method_step_flops(objective: ObjectiveSpec, config: Sizes, load: Workload) -> float:
    """A training step with these counts; frozen parts are counted as the trainer counts them."""
    targets = target_flops(config, load) if objective.averages_encoder else 0.0
    return FORWARDS_PER_STEP * FORWARD_FLOPS[objective.name](config, load) + targets


def expected_workload(objective: ObjectiveSpec, images: float, patches: int, tokens: float) -> Workload:
    """Workload of one mean document, as the objective packs it.

    Args:
        images, tokens: of the document, with the tokens of its images and the start and end of each.
    """
    words = max(tokens - images * (patches + DELIMITERS) - DELIMITERS, 0.0)
    name = objective.name
    if name in ("clip", "coca", "blip2"):
        context = min(words + DELIMITERS, TEXT_CONTEXT_LENGTH)
        captions = [] if name == "clip" else [patches + DELIMITERS + words + 1]
        labels, matched = (0.0 if name == "clip" else words + 1), (captions * 3 if name == "blip2" else [])
        return Workload(images, patches, [*captions, context], labels, matched=matched)
    if name == "beit3":
        return Workload(images, patches, [tokens], TEXT_MASK_RATIO * words, IMAGE_MASK_RATIO * images * patches)
    return Workload(images, patches, [tokens], max(tokens - images * (patches + 1) - 1, 0.0))
