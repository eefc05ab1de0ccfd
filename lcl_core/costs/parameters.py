"""How many numbers a model holds: those of ``LCLModel``, and those that a method adds for its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lcl_core.costs.sizes import Sizes


def model_parameters(config: Sizes) -> int:
    """Of both towers, the pooler, the vocabulary's projection and the temperature."""
    return vision_parameters(config) + pooler_parameters(config) + text_parameters(config) + 1


def vision_parameters(config: Sizes) -> int:
    width = config.vision_width
    embedding = 3 * config.patch_size**2 * width + width + (config.num_image_tokens + 1) * width
    return embedding + 4 * width + config.vision_layers * block_parameters(config, width)


def pooler_parameters(config: Sizes) -> int:
    inputs, outputs = config.vision_width, config.text_width
    return 7 * inputs + 3 * inputs * outputs + 3 * outputs + outputs**2


def text_parameters(config: Sizes) -> int:
    """The text tower with its embeddings, the contrastive projection and the head."""
    width = config.text_width
    tables = (2 * config.vocab_size + config.context_length) * width
    return tables + config.text_layers * block_parameters(config, width) + 4 * width + width**2


def block_parameters(config: Sizes, width: int) -> int:
    """Two norms, q, k, v and out with biases, and the MLP."""
    hidden = int(width * config.mlp_ratio)
    return 4 * width + 4 * width * (width + 1) + 2 * width * hidden + hidden + width


def method_parameters(name: str, config: Sizes) -> int:
    """What a method trains beside the model, and never exports."""
    return _OWN[name](config) if name in _OWN else 0


def _emu(config: Sizes) -> int:
    width = config.text_width
    return 2 * width + width * (width + 1)


def _blip2(config: Sizes) -> int:
    width = config.text_width
    return 2 * width + 2 * (width + 1)


def _beit3(config: Sizes) -> int:
    width, pixels = config.text_width, 3 * config.patch_size**2
    return config.vision_width + 3 * width + pixels * (width + 1)


_OWN: Mapping[str, Callable[[Sizes], int]] = {"emu": _emu, "blip2": _blip2, "beit3": _beit3}
