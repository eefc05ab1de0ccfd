"""timm: the vision tower as a VisionTransformer, to the last norm.

Class token, pre-norm, no bias in the patch embedding: CLIP's form, for which timm has names. What it has no place for
is the pooling: timm's reads patches as they come from the last norm, ours normalises them once more for keys and
values. So the patch tokens arrive and the pooled latent does not; ``forward_head`` gives the mean over the patches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lcl_core.common.files import write_json_atomically
from lcl_core.encoders.export.files import write_use
from lcl_core.encoders.lcl import load_model
from lcl_core.encoders.registry import CONFIG, WEIGHTS
from lcl_core.model import LCLConfig
from lcl_core.specs.data import CLIP_MEAN, CLIP_STD

# timm's own names for CLIP's ViT; every size is given besides
_ARCHITECTURES = {"gelu": "vit_base_patch32_clip_224", "quick_gelu": "vit_base_patch32_clip_quickgelu_224"}
_RENAMED = {
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "transformer.resblocks.": "blocks.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_WORDS = """
The vision tower of an encoder of Latent Compression Learning. `forward_features` gives a class token, which was only a
register, and then the patch tokens: those are the features. The pooled latent, which is compared with texts, is **not**
here: timm's attention pooling has no norms before keys and values. `forward_head` gives the mean over the patch tokens.
"""
_RECIPE = """
import timm
model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
patches = model.forward_features(transform(image)[None])[:, model.num_prefix_tokens :]
"""


def write(directory: Path, target: Path) -> None:
    """What ``timm.models.save_for_hf`` writes of such a network, and a README. Needs no timm."""
    model, _ = load_model(directory)
    config = model.config
    weights = model.visual.state_dict()
    state = {
        "cls_token": weights.pop("class_embedding")[None, None],
        "pos_embed": weights.pop("positional_embedding")[None],
    }
    for name, value in weights.items():
        for ours, theirs in _RENAMED.items():
            name = name.replace(ours, theirs)
        state[name] = value.contiguous()
    save_file(state, target / WEIGHTS, metadata={"format": "pt"})
    settings = _settings(config)
    described = {
        "architecture": _ARCHITECTURES[config.activation],
        "num_classes": 0,
        "num_features": config.vision_width,
        "global_pool": settings["global_pool"],
        "model_args": settings,
        "pretrained_cfg": _transform(config),
    }
    write_json_atomically(target / CONFIG, described)
    write_use(target, _WORDS, _RECIPE, "timm")


def _settings(config: LCLConfig) -> dict[str, Any]:
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.vision_width,
        "depth": config.vision_layers,
        "num_heads": config.vision_width // config.vision_head_width,
        "mlp_ratio": config.mlp_ratio,
        "num_classes": 0,
        "global_pool": "avg",
        "fc_norm": False,  # the norm stays where it was: before the mean
    }


def _transform(config: LCLConfig) -> dict[str, Any]:
    return {
        "tag": "lcl",
        "custom_load": False,
        "input_size": [3, config.image_size, config.image_size],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
