"""Weights of an encoder under the names of LCLModel, whatever library made it.

A vision transformer in blocks that normalise first is the same network in OpenCLIP, timm, Hugging Face and here; their
names differ, and where a library keeps apart what LCLModel has in one tensor, the two are multiplied out: separate
projections of q, k and v, layer scale, a bias of the patch embedding, and another normalisation of pixels.

A tower ``timm:tf_efficientnet_lite0`` takes the weights of timm's network. The classifier's last convolution is left
out, since a tower ends with the last feature map.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.encoders.base import ExternalImageEncoder, ExternalTextEncoder, ImageEncoder
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.model import LCLConfig

Settings = dict[str, str | int]


@dataclass(frozen=True)
class TowerWeights:
    """What another model may start from.

    Attributes:
        tensors: fp32 on the CPU, by the names of LCLModel. ``visual.positional_embedding`` has a row for the class
            token, the first, if there is a ``visual.class_embedding``.
        vocabulary: {token: row of ``text.token_embedding.weight``}, tokens as the tokenizer writes them.
        settings: what the same weights compute different functions with: activation and heads of each tower.
        left_out: the library's tensors without a counterpart, and why.
    """

    tensors: Mapping[str, Tensor]
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def tower_weights(encoder: ImageEncoder) -> TowerWeights:
    """The weights of a loaded encoder; without any where its networks are no such transformers."""
    if isinstance(encoder, LCLEncoder):
        words = encoder.processor.tokenizer.vocabulary
        return TowerWeights(_on_cpu(encoder.model), words, model_settings(encoder.model.config))
    assert isinstance(encoder, ExternalImageEncoder)
    if encoder.origin.model.startswith("tf_efficientnet_lite"):
        return _efficientnet_weights(encoder)
    tensors, left_out = _renamed(_on_cpu(encoder.module), "visual.")
    settings = _settings(encoder.module, "vision")
    if "visual.conv1.weight" in tensors:
        left_out |= _fold_stem(tensors, encoder)
    vocabulary: Mapping[str, int] = {}
    if isinstance(words := encoder.text_encoder, ExternalTextEncoder):
        texts, others = _renamed(_on_cpu(words.module), "text.")
        if "text.text_projection.weight" in texts:  # a linear layer's, where LCLModel multiplies from the right
            texts["text.text_projection"] = texts.pop("text.text_projection.weight").T.contiguous()
        tensors, left_out = tensors | texts, left_out | others
        vocabulary, settings = words.vocabulary, settings | _settings(words.module, "text")
    return TowerWeights(tensors, vocabulary, settings, left_out)


def model_settings(config: LCLConfig) -> Settings:
    """``TowerWeights.settings`` of an LCLModel."""
    return {
        "vision activation": config.activation,
        "vision heads": config.vision_width // config.vision_head_width,
        "text activation": config.activation,
        "text heads": config.text_heads,
    }


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", torch.float32) for name, tensor in module.state_dict().items()}


# of OpenCLIP, timm, transformers' CLIP and SigLIP, and its ViT and DINOv2; what stands left of ``=>`` as a whole name
_BLOCK = re.compile(r"(?:encoder\.)?(?:transformer\.resblocks|blocks|layers?)\.(\d+)\.(.+)")
_BLOCK_NAMES = (
    (r"(?:ln_1|norm1|layer_norm1|layernorm_before)\.(weight|bias)", r"ln_1.\1"),
    (r"(?:ln_2|norm2|layer_norm2|layernorm_after)\.(weight|bias)", r"ln_2.\1"),
    (r"attn\.(in_proj_weight|in_proj_bias)", r"attn.\1"),
    (r"attn\.qkv\.(weight|bias)", r"attn.in_proj_\1"),
    (r"(?:self_attn|attention)\.([qkv])_proj\.(weight|bias)", r"attn.\1.\2"),
    (r"(?:attn|self_attn|attention)\.(?:out_proj|o_proj|proj)\.(weight|bias)", r"attn.out_proj.\1"),
    (r"mlp\.(?:c_fc|fc1)\.(weight|bias)", r"mlp.c_fc.\1"),
    (r"mlp\.(?:c_proj|fc2)\.(weight|bias)", r"mlp.c_proj.\1"),
    (r"(?:ls_1\.gamma|ls1\.gamma|layer_scale1\.lambda1)", "attn.out_proj.scale"),
    (r"(?:ls_2\.gamma|ls2\.gamma|layer_scale2\.lambda1)", "mlp.c_proj.scale"),
)
_OTHER_NAMES = (
    (r"(?:embeddings\.)?(?:class_embedding|cls_token)", "class_embedding"),
    (
        r"(?:embeddings\.)?(?:positional_embedding|pos_embed|position_embeddings|position_embedding\.weight)",
        "positional_embedding",
    ),
    (r"(?:embeddings\.)?(?:conv1|patch_embed\.proj|patch_embedding|patch_embeddings\.projection)\.(.+)", r"conv1.\1"),
    (r"(?:ln_pre|norm_pre|pre_layrnorm)\.(weight|bias)", r"ln_pre.\1"),
    (r"(?:ln_post|norm|layernorm|post_layernorm)\.(weight|bias)", r"ln_post.\1"),
    (r"(?:embeddings\.)?(token_embedding\.weight)", r"\1"),
    (r"(?:ln_final|final_layer_norm)\.(weight|bias)", r"ln_final.\1"),
    (r"(text_projection(?:\.weight)?)", r"\1"),
)
_WRAPPERS = re.compile(r"^(?:vision_model|text_model|trunk)\.")
_NOT_HERE = "LCLModel has no such part"


def _renamed(state: Mapping[str, Tensor], tower: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A tower's tensors by our names, and those without one; of a network without such blocks none has one."""
    tensors: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for name, tensor in state.items():
        ours = _our_name(_WRAPPERS.sub("", name))
        if ours is None:
            left_out[f"{tower}{name}"] = _NOT_HERE
        else:
            tensors[f"{tower}{ours}"] = tensor
    if not any(".attn." in name for name in tensors):
        return {}, dict.fromkeys((f"{tower}{name}" for name in state), "the network is no transformer as LCLModel's")
    _join_projections(tensors)
    for name in [name for name in tensors if name.endswith(".scale")]:
        scale, layer = tensors.pop(name), name.removesuffix(".scale")
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] * scale[:, None]
        if f"{layer}.bias" in tensors:
            tensors[f"{layer}.bias"] = tensors[f"{layer}.bias"] * scale
    return tensors, left_out


def _our_name(name: str) -> str | None:
    block = _BLOCK.fullmatch(name)
    prefix, rest = (f"transformer.resblocks.{block[1]}.", block[2]) if block else ("", name)
    for pattern, replacement in _BLOCK_NAMES if block else _OTHER_NAMES:
        if found := re.fullmatch(pattern, rest):
            return prefix + found.expand(replacement)
    return None


def _join_projections(tensors: dict[str, Tensor]) -> None:
    """q, k and v of each block as one projection; a bias that one of them lacks is 0."""
    for name in [name for name in tensors if name.endswith(".attn.q.weight")]:
        attention = name.removesuffix("q.weight")
        weights = [tensors.pop(f"{attention}{part}.weight") for part in "qkv"]
        biases = [tensors.pop(f"{attention}{part}.bias", None) for part in "qkv"]
        tensors[f"{attention}in_proj_weight"] = torch.cat(weights)
        if any(bias is not None for bias in biases):
            zero = torch.zeros(len(weights[0]))
            tensors[f"{attention}in_proj_bias"] = torch.cat([zero if bias is None else bias for bias in biases])


def _fold_stem(tensors: dict[str, Tensor], encoder: ExternalImageEncoder) -> dict[str, str]:
    """Position table of one row a token, and a patch embedding without bias for pixels as ours are normalised.

    With x = (y - m) / s of levels y, W x' + b for x' = (y - m') / s' is (W s / s') x + b + W (m - m') / s'. The
    constant goes into the positions of patches. Returns: what was left out.
    """
    left_out: dict[str, str] = {}
    weight = tensors["visual.conv1.weight"]  # [W, 3, P, P]
    bias = tensors.pop("visual.conv1.bias", torch.zeros(len(weight)))
    factor, shift = _channels(CLIP_STD, encoder.deviation), _channels(CLIP_MEAN, encoder.deviation, encoder.mean)
    bias = bias + (weight * shift).sum((1, 2, 3))
    tensors["visual.conv1.weight"] = weight * factor
    if "visual.class_embedding" in tensors:
        tensors["visual.class_embedding"] = tensors["visual.class_embedding"].flatten()
    positions = tensors.pop("visual.positional_embedding", None)
    patches = (encoder.image_size // weight.shape[-1]) ** 2
    if positions is None or positions.shape[-2] < patches:
        return left_out | {"visual.positional_embedding": "the table has fewer rows than there are patches"}
    positions = positions.reshape(-1, positions.shape[-1])
    before = _rows_before_patches(len(positions), patches)
    rows = [positions[before:] + bias]
    if "visual.class_embedding" in tensors:
        rows.insert(0, positions[:1] if before else torch.zeros(1, positions.shape[1]))
    if before > 1:
        left_out["visual.positional_embedding, rows of registers"] = _NOT_HERE
    tensors["visual.positional_embedding"] = torch.cat(rows)
    return left_out


def _efficientnet_weights(encoder: ExternalImageEncoder) -> TowerWeights:
    """The network's tensors without those behind the last feature map.

    Pixels are normalised otherwise: in the notation of :func:`_fold_stem`, the first convolution becomes W s / s', and
    the constant W (m - m') / s' is subtracted from the mean that the batch normalisation after it subtracts. The
    padding of that convolution, zeros, then stands for m in place of m'.
    """
    timm: Any = import_module("timm")
    with torch.device("meta"):
        names = timm.create_model(encoder.origin.model, features_only=True).state_dict().keys()
    state = _on_cpu(encoder.module)
    tensors = {f"visual.network.{name}": state[name] for name in names}
    left_out = {f"visual.{name}": "a tower ends with the last feature map" for name in state.keys() - names}
    stem, mean = tensors["visual.network.conv_stem.weight"], tensors["visual.network.bn1.running_mean"]
    shift = _channels(CLIP_MEAN, encoder.deviation, encoder.mean)
    tensors["visual.network.bn1.running_mean"] = mean - (stem * shift).sum((1, 2, 3))
    tensors["visual.network.conv_stem.weight"] = stem * _channels(CLIP_STD, encoder.deviation)
    return TowerWeights(tensors, left_out=left_out)


def _rows_before_patches(rows: int, patches: int) -> int:
    """Rows of a position table that belong to a class token and registers.

    A table may have another grid than the images: DINOv2's is of 37 x 37 patches, its images are cropped to 16 x 16,
    and the library interpolates.
    """
    own = math.isqrt(rows) ** 2
    return rows - own if rows - patches > 1 >= rows - own else rows - patches


def _channels(values: Sequence[float], deviation: Sequence[float], mean: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """(value - mean) / deviation of each channel, [3, 1, 1]."""
    parts = [(value - m) / s for value, m, s in zip(values, mean, deviation, strict=True)]
    return torch.tensor(parts, dtype=torch.float32)[:, None, None]


def _settings(network: nn.Module, tower: str) -> Settings:
    """Heads and activation, as far as the modules of a library show them."""
    found: Settings = {}
    for module in network.modules():
        name = type(module).__name__.lower()
        for attribute in ("num_heads", "num_attention_heads"):
            if isinstance(heads := getattr(module, attribute, None), int):
                found.setdefault(f"{tower} heads", heads)
        if "gelu" in name or "activation" in name or isinstance(module, nn.ReLU | nn.SiLU):
            quick, approximate = "quick" in name, "tanh" in name or getattr(module, "approximate", "none") == "tanh"
            found.setdefault(
                f"{tower} activation",
                "quick_gelu" if quick else "gelu_tanh" if approximate else "gelu" if "gelu" in name else name,
            )
    return found
