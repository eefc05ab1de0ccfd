"""Files of the authors' form: their model JSON and state_dict."""

from __future__ import annotations

import json

from safetensors.torch import save_file

from lcl_core.encoders.original_checkpoint import SPECIAL_TOKENS


def config_to_official(config):
    """The inverse of ``config_from_official``."""
    official = {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": config.image_size,
            "layers": config.vision_layers,
            "width": config.vision_width,
            "head_width": config.vision_head_width,
            "patch_size": config.patch_size,
            "mlp_ratio": config.mlp_ratio,
        },
        "text_cfg": {
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
        "pool_project_cfg": {
            "pool_proj_type": "attn",
            "input_dim": config.vision_width,
            "output_dim": config.text_width,
            "attn_num_heads": config.pool_heads,
        },
        "special_token_ids": {theirs: getattr(config, ours) for ours, theirs in SPECIAL_TOKENS.items()},
    }
    if config.activation == "quick_gelu":
        official["quick_gelu"] = True
    return official


def export_official(model, target):
    """``config.json`` and ``weights.safetensors``."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config_to_official(model.config)))
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, target / "weights.safetensors")
