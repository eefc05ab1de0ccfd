"""Useful floating-point operations of models and objectives: padding and recomputation are not counted.

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
from typing import Protocol

from lcl_core.specs.pretrain import (
    IMAGE_MASK_RATIO,
    TEXT_CONTEXT_LENGTH,
    TEXT_MASK_RATIO,
    MethodName,
    ObjectiveSpec,
    PretrainSpec,
)
from lcl_core.specs.vision import DEFAULT_TOWER, TowerSizes, build_timm_network, tower_kind

CLIP_TOKENS = 49_411  # of CLIP's vocabulary, the three of images among them
SPECIALS = 5  # of a vocabulary that is learnt
MLP_RATIO = 4.0  # of every model that a spec describes
FORWARDS_PER_STEP = 3.0  # forward passes that a training step costs


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
    mlp_ratio: float

    @property
    def num_image_tokens(self) -> int: ...


@dataclass
class ModelSizes:
    """Sizes without a model."""

    patch_size: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int
    vocab_size: int
    num_image_tokens: int
    mlp_ratio: float = MLP_RATIO
    vision: str = DEFAULT_TOWER


def model_sizes(spec: PretrainSpec) -> ModelSizes:
    """Sizes of a spec's model, whose vocabulary is as large as the spec allows."""
    model, vocabulary = (
        spec.model,
        CLIP_TOKENS if spec.tokenizer.kind == "clip" else spec.tokenizer.vocab_size + SPECIALS,
    )
    return ModelSizes(
        patch_size=model.patch_size,
        vision_width=model.vision_width,
        vision_layers=model.vision_layers,
        text_width=model.text_width,
        text_layers=model.text_layers,
        context_length=model.context_length,
        vocab_size=vocabulary,
        num_image_tokens=model.num_image_tokens,
        vision=model.vision,
    )


def vision_flops(config: Sizes, images: float, patches: int) -> float:
    """The vision tower over images of which ``patches`` patches are encoded."""
    width = config.vision_width
    total = convolution_counts(config).flops
    if tower_kind(config.vision).patchwise:
        blocks = (patches + 1) * _block_flops(width, config.mlp_ratio) + _attention_flops(patches + 1, width)
        total += config.vision_layers * blocks
    return images * total


@dataclass(frozen=True)
class TowerCounts:
    """Counts of a vision tower for one image, without the ViT's transformer.

    Attributes:
        outputs: numbers that its layers with weights compute.
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


def pooling_flops(config: Sizes, images: float, patches: int, *, latents: bool = True, tokens: bool = True) -> float:
    """The pooler's values, and optionally keys for the latents and projections to tokens."""
    inputs, outputs = config.vision_width, config.text_width
    widths = inputs + latents * inputs + tokens * outputs
    return images * patches * 2 * widths * outputs


def text_flops(config: Sizes, lengths: Sequence[float], *, causal: bool = True) -> float:
    """The text tower over documents of these token lengths."""
    width, share = config.text_width, 0.5 if causal else 1.0
    attention = share * sum(_attention_flops(length, width) for length in lengths)
    return config.text_layers * (sum(lengths) * _block_flops(width, config.mlp_ratio) + attention)


def head_flops(config: Sizes, labels: float) -> float:
    """Logits of the whole vocabulary at ``labels`` positions."""
    return labels * 2.0 * config.text_width * config.vocab_size


def _block_flops(width: int, mlp_ratio: float) -> float:
    """Matrix products of one block for one token: q, k, v, out and the MLP."""
    return 2 * width * width * (4 + 2 * mlp_ratio)


def _attention_flops(length: float, width: int) -> float:
    """Scores and mixing of one sequence in one layer."""
    return 4.0 * length * length * width


_DELIMITERS = 2  # <soi> and <eoi> of an image; start and end of a text


@dataclass(frozen=True)
class Workload:
    """Counts of a forward pass; they may be means.

    Attributes:
        images, patches: images, and encoded patches of each.
        lengths: tokens of each row of the text tower, with those of images.
        labels: positions at which a token is predicted.
        restored: masked patches that are predicted.
        matched: tokens of each row of a later pass of the text tower with full attention, which compares the images
            with texts of the whole step.
    """

    images: float
    patches: int
    lengths: Sequence[float]
    labels: float
    restored: float = 0.0
    matched: Sequence[float] = ()

    def times(self, factor: float) -> Workload:
        """Counts of so many equal batches. Their rows are added up, so attention cannot be counted from them."""
        return Workload(
            self.images * factor,
            self.patches,
            [length * factor for length in self.lengths],
            self.labels * factor,
            self.restored * factor,
            [length * factor for length in self.matched],
        )


def lcl_flops(
    config: Sizes, load: Workload, *, latents: bool = True, tokens: bool = True, causal: bool = True
) -> float:
    """One pass over images and rows. ``latents``, ``tokens``: outputs of the pooler."""
    vision = vision_flops(config, load.images, load.patches)
    pooling = pooling_flops(config, load.images, load.patches, latents=latents, tokens=tokens)
    return vision + pooling + text_flops(config, load.lengths, causal=causal) + head_flops(config, load.labels)


def _beit3_flops(config: Sizes, load: Workload) -> float:
    restoring = load.restored * 2 * config.text_width * 3 * config.patch_size**2
    return lcl_flops(config, load, latents=False, causal=False) + restoring


FORWARD_FLOPS: Mapping[MethodName, Callable[[Sizes, Workload], float]] = {
    "lcl": lcl_flops,
    "clip": lambda config, load: lcl_flops(config, load, tokens=False),
    "coca": lcl_flops,
    "blip2": lambda config, load: lcl_flops(config, load) + text_flops(config, load.matched, causal=False),
    "beit3": _beit3_flops,
    "flamingo": lambda config, load: lcl_flops(config, load, latents=False),
    "emu": lambda config, load: (
        lcl_flops(config, load, latents=False) + load.images * load.patches * 2 * config.text_width**2
    ),
}


def target_flops(config: Sizes, load: Workload) -> float:
    """A moving average of the encoder, whose tokens are targets: a forward pass alone."""
    encoded = vision_flops(config, load.images, load.patches)
    return encoded + pooling_flops(config, load.images, load.patches, latents=False)


def method_step_flops(objective: ObjectiveSpec, config: Sizes, load: Workload) -> float:
    """A training step with these counts; frozen parts and a teacher's passes are counted as the trainer counts them."""
    targets = target_flops(config, load) if objective.averages_encoder else 0.0
    return FORWARDS_PER_STEP * FORWARD_FLOPS[objective.name](config, load) + targets


def expected_workload(objective: ObjectiveSpec, images: float, patches: int, tokens: float) -> Workload:
    """Workload of one mean document, as the objective packs it.

    Args:
        images, tokens: of the document, with the tokens of its images and the start and end of each.
    """
    words = max(tokens - images * (patches + _DELIMITERS) - _DELIMITERS, 0.0)
    name = objective.name
    if name in ("clip", "coca", "blip2"):
        context = min(words + _DELIMITERS, TEXT_CONTEXT_LENGTH)
        captions = [] if name == "clip" else [patches + _DELIMITERS + words + 1]
        labels, matched = (0.0 if name == "clip" else words + 1), (captions * 3 if name == "blip2" else [])
        return Workload(images, patches, [*captions, context], labels, matched=matched)
    if name == "beit3":
        masked = TEXT_MASK_RATIO * words
        return Workload(images, patches, [tokens], masked, IMAGE_MASK_RATIO * images * patches)
    labels = max(tokens - images * (patches + 1) - 1, 0.0)
    return Workload(images, patches, [tokens], labels)
