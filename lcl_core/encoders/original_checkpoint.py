"""Import of the authors' checkpoints: their model JSON and state_dict.

Our parameters carry the authors' names, so that weights map one to one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.data import clip_tokenizer
from lcl_core.model import LCLConfig, LCLModel, LCLProcessor

SPECIAL_TOKENS = {  # field of config.json: token of the tokenizer whose id it is
    "sot_token_id": "<start_of_text>",
    "eot_token_id": "<end_of_text>",
    "img_token_id": "<img_placehold>",
    "soi_token_id": "<start_of_img>",
    "eoi_token_id": "<end_of_img>",
}


def config_from_official(official: dict[str, Any]) -> LCLConfig:
    """The authors' ``{embed_dim, vision_cfg, text_cfg, pool_project_cfg, special_token_ids}`` as our configuration.

    Raises: KeyError for a missing field; ValueError for numbers out of bounds, and when embed_dim, text width and
        pooler output differ.
    """
    vision, text, pool = official["vision_cfg"], official["text_cfg"], official["pool_project_cfg"]
    if not official["embed_dim"] == text["width"] == pool["output_dim"]:
        raise ValueError("embed_dim, text_cfg.width and pool_project_cfg.output_dim must be equal")
    quick = official.get("quick_gelu", False)
    specials = {ours: official["special_token_ids"][theirs] for ours, theirs in SPECIAL_TOKENS.items()}
    return LCLConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_head_width=vision.get("head_width", 64),
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        pool_heads=pool["attn_num_heads"],
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        activation="quick_gelu" if quick else "gelu",
        **specials,
    )


def load_official(config_json: str | Path | dict[str, Any], weights: str | Path) -> LCLModel:
    """Build an LCLModel from the authors' config JSON and weights.

    Args:
        config_json: their model JSON, a path or the parsed object.
        weights: a ``.safetensors`` file, or a ``.pt`` read with ``weights_only=True``.

    Raises:
        UserError: a file is missing or is not what it should be, or names or shapes of the weights do not fit.
    """
    config = read_official_config(config_json)
    model = LCLModel(config)
    state = read_weights(Path(weights))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        message = f"the weights do not fit the config: {' '.join(str(error).split())[:300]}"
        raise UserError(message, code="encoder_unreadable", file=weights) from error
    return model.eval()


def import_original(config_json: str | Path, weights: str | Path, directory: str | Path) -> None:
    """Write the authors' checkpoint as an encoder of ours, which everything can use: the weights are the same."""
    model, tokenizer = load_official(config_json, weights), clip_tokenizer()
    for field in SPECIAL_TOKENS:
        said, own = getattr(model.config, field), getattr(tokenizer.specials, field.removesuffix("_token_id"))
        if said != own:
            message = f"special_token_ids: {SPECIAL_TOKENS[field]} is {said}, and {own} in CLIP's tokenizer"
            raise UserError(message, code="encoder_unreadable", file=config_json)
    model.save_pretrained(directory)
    LCLProcessor(tokenizer, model.config.image_size).save_pretrained(directory)


def read_official_config(config_json: str | Path | dict[str, Any]) -> LCLConfig:
    """The authors' model JSON, a path or the parsed object. Raises: UserError naming the file and what is wrong."""
    path = None if isinstance(config_json, dict) else Path(config_json)
    try:
        official = config_json if isinstance(config_json, dict) else json.loads(Path(config_json).read_text("utf-8"))
        return config_from_official(official)
    except OSError as error:
        message = f"cannot read the model JSON: {error.strerror}"
        raise UserError(message, code="encoder_unreadable", file=path) from error
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        message = f"not a model JSON of the authors' form: {type(error).__name__} {error}"
        raise UserError(message, code="encoder_unreadable", file=path) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state_dict from safetensors, or from a pickle of tensors and nothing else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises its own; the reader needs one sentence
        raise UserError(f"cannot read weights: {error}", code="encoder_unreadable", file=path) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        message = "cannot read weights: a state_dict has tensors by name, and nothing else"
        raise UserError(message, code="encoder_unreadable", file=path)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
