"""What ``open_clip_config.json`` may say. Knows no OpenCLIP.

Towers that a hub defines (``hf_model_name``, a timm name with a source) and weights that it would fetch are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lcl_core.encoders.schemas.base import Finite, ShortText, read_json_object, schema_error, validate_model
from lcl_core.encoders.schemas.timm import Architecture

OPENCLIP_CONFIG = "open_clip_config.json"
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Side = Annotated[int, Field(ge=1, le=4096)]
Sides = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
Width = Annotated[int, Field(ge=1, le=8192)]
Layers = Annotated[int, Field(ge=0, le=128)]
Heads = Annotated[int, Field(ge=1, le=512)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=3, max_length=3)]
Scales = Annotated[list[Annotated[float, Field(ge=1e-3, le=100)]], Field(min_length=3, max_length=3)]


class NormArguments(BaseModel):
    model_config = _CLOSED

    eps: Annotated[float, Field(gt=0, le=1)] | None = None


class GeluArguments(BaseModel):
    model_config = _CLOSED

    approximate: Literal["none", "tanh"] | None = None


class _Blocks(BaseModel):
    """Fields of the blocks of both towers."""

    model_config = _CLOSED

    width: Width | None = None
    mlp_ratio: Ratio | None = None
    ls_init_value: Finite | None = None
    final_ln_after_pool: bool | None = None
    output_tokens: bool | None = None
    act_kwargs: GeluArguments | None = None
    norm_kwargs: NormArguments | None = None
    block_type: Literal["custom", "default"] | None = None
    qk_norm: bool | None = None
    scaled_cosine_attn: bool | None = None
    scale_heads: bool | None = None
    scale_attn_inner: bool | None = None
    scale_attn: bool | None = None
    scale_fc: bool | None = None


class VisionSettings(_Blocks):
    """``vision_cfg``."""

    layers: Layers | Annotated[list[Layers], Field(min_length=4, max_length=4)] | None = None
    head_width: Annotated[int, Field(ge=1, le=1024)] | None = None
    patch_size: Side | None = None
    image_size: Sides | None = None
    patch_dropout: Share | None = None
    attentional_pool: bool | Literal["cascade", "parallel"] | None = None
    attn_pooler_queries: Annotated[int, Field(ge=1, le=1024)] | None = None
    attn_pooler_heads: Heads | None = None
    no_ln_pre: bool | None = None
    pos_embed_type: Literal["learnable", "sin_cos_2d"] | None = None
    pool_type: Literal["avg", "avg_all", "none", "tok"] | None = None
    timm_model_name: Architecture | None = None
    timm_model_pretrained: Literal[False] | None = None
    timm_pool: Literal["", "abs_attn", "avg", "avgmax", "map", "max", "rot_attn", "token"] | None = None
    timm_proj: Literal["", "linear", "mlp", "none"] | None = None
    timm_proj_bias: bool | None = None
    timm_drop: Share | None = None
    timm_drop_path: Share | None = None


class TokenizerArguments(BaseModel):
    model_config = _CLOSED

    clean: Literal["canonicalize", "lower", "whitespace"] | None = None
    strip_sep_token: bool | None = None


class TextSettings(_Blocks):
    """``text_cfg``."""

    context_length: Annotated[int, Field(ge=1, le=8192)] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    hf_tokenizer_name: ShortText | None = None  # of whatever name: the files of this directory are read
    hf_model_name: Literal[""] | None = None
    tokenizer_mode: Literal["", "clips"] | None = None
    tokenizer_kwargs: TokenizerArguments | None = None
    heads: Heads | None = None
    layers: Layers | None = None
    embed_cls: bool | None = None
    pad_id: Annotated[int, Field(ge=0, lt=1 << 20)] | None = None
    eos_id: Annotated[int, Field(ge=0, lt=1 << 20)] | None = None
    no_causal_mask: bool | None = None
    pool_type: Literal["argmax", "eos", "first", "last", "none"] | None = None
    proj_bias: bool | None = None
    proj_type: Literal["linear", "none"] | None = None


class DecoderSettings(TextSettings):
    """``multimodal_cfg`` of CoCa."""

    dim_head: Annotated[int, Field(ge=1, le=1024)] | None = None
    n_queries: Annotated[int, Field(ge=1, le=1024)] | None = None
    attn_pooler_heads: Heads | None = None


class OpenCLIPModel(BaseModel):
    """``model_cfg``."""

    model_config = _CLOSED

    embed_dim: Width
    vision_cfg: VisionSettings
    text_cfg: TextSettings
    multimodal_cfg: DecoderSettings | None = None
    quick_gelu: bool | None = None
    custom_text: bool | None = None
    init_logit_scale: Finite | None = None
    init_logit_bias: Finite | None = None
    nonscalar_logit_scale: bool | None = None
    output_dict: bool | None = None


class Preprocessing(BaseModel):
    """``preprocess_cfg``."""

    model_config = _CLOSED

    size: Sides | None = None
    mode: Literal["RGB"] | None = None
    mean: Channels | None = None
    std: Scales | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["longest", "shortest", "squash"] | None = None
    fill_color: Annotated[int, Field(ge=0, le=255)] | None = None


class OpenCLIPConfig(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model_cfg: OpenCLIPModel
    preprocess_cfg: Preprocessing | None = None


def check_openclip(directory: Path) -> dict[str, Any]:
    """The file, checked. Raises: UserError ``encoder_unreadable``, also where a hub would be contacted."""
    path = directory / OPENCLIP_CONFIG
    config = read_json_object(path)
    if elsewhere := _hub_reference(config):
        reason = (
            f"a part of this encoder is defined by {elsewhere[:200]!r} on a hub, which is not contacted; "
            "take an OpenCLIP model whose towers are OpenCLIP's own or timm's"
        )
        raise schema_error(path, reason)
    validate_model(OpenCLIPConfig, config, path)
    return config


def _hub_reference(config: dict[str, Any]) -> str | None:
    model = config.get("model_cfg")
    towers = [model.get(name) for name in ("text_cfg", "vision_cfg")] if isinstance(model, dict) else []
    text, sight = [tower if isinstance(tower, dict) else {} for tower in towers] or [{}, {}]
    if text.get("hf_model_name"):
        return str(text["hf_model_name"])
    name = sight.get("timm_model_name")
    return name if isinstance(name, str) and ":" in name else None
