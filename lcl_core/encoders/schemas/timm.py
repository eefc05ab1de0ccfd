"""What timm's and EfficientNet-Lite's ``config.json`` may say. Knows no timm.

Left out, and so refused, is whatever names other weights (``url``, ``file``, ``hf_hub_id`` …) or a layer by its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lcl_core.encoders.schemas.base import ShortText, read_json_object, validate_model

CONFIG = "config.json"
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

Side = Annotated[int, Field(ge=1, le=4096)]
Sides = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
Input = Annotated[list[Side], Field(min_length=3, max_length=3)]
Few = 16
Width = Annotated[int, Field(ge=1, le=32_768)]
Widths = Width | Annotated[list[Width], Field(max_length=Few)]
Layers = Annotated[int, Field(ge=0, le=128)]
Depths = Layers | Annotated[list[Layers], Field(max_length=Few)]
Heads = Annotated[int, Field(ge=1, le=512)]
HeadsEach = Heads | Annotated[list[Heads], Field(max_length=Few)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[list[Annotated[float, Field(ge=-300, le=300)]], Field(min_length=3, max_length=3)]
Scales = Annotated[list[Annotated[float, Field(ge=1e-3, le=300)]], Field(min_length=3, max_length=3)]
Classes = Annotated[int, Field(ge=0, le=50_000)]
Labels = Annotated[list[ShortText] | dict[ShortText, ShortText], Field(max_length=50_000)]
Architecture = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?$")]
Pool = Literal["", "avg", "avgmax", "fast", "map", "max", "prr", "token", "catavgmax"]


class ModelArguments(BaseModel):
    """``model_args``: sizes and switches that a network is built with."""

    model_config = _CLOSED

    img_size: Sides | None = None
    patch_size: Sides | None = None
    in_chans: Literal[3] | None = None
    num_classes: Classes | None = None
    embed_dim: Widths | None = None
    dims: Widths | None = None
    head_hidden_size: Width | None = None
    depth: Layers | None = None
    depths: Depths | None = None
    num_heads: HeadsEach | None = None
    mlp_ratio: Ratio | Annotated[list[Ratio], Field(max_length=Few)] | None = None
    window_size: Sides | None = None
    global_pool: Pool | None = None
    reg_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    init_values: Annotated[float, Field(ge=0, le=10)] | None = None
    ls_init_value: Annotated[float, Field(ge=0, le=10)] | None = None
    drop_rate: Share | None = None
    drop_path_rate: Share | None = None
    pos_drop_rate: Share | None = None
    patch_drop_rate: Annotated[float, Field(ge=0, le=0)] | None = None
    proj_drop_rate: Share | None = None
    attn_drop_rate: Share | None = None
    class_token: bool | None = None
    no_embed_class: bool | None = None
    reg_prefix: bool | None = None
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    pre_norm: bool | None = None
    final_norm: bool | None = None
    fc_norm: bool | None = None
    pos_embed: Literal["", "learn", "none"] | None = None
    conv_mlp: bool | None = None
    use_grn: bool | None = None
    norm_eps: Share | None = None
    strict_img_size: bool | None = None
    dynamic_img_size: bool | None = None  # of images: those that are encoded here have one size


class PretrainedSettings(BaseModel):
    """``pretrained_cfg``: how images are prepared, and where the weights once came from, in words."""

    model_config = _CLOSED

    tag: ShortText | None = None
    architecture: Architecture | None = None
    custom_load: bool | Literal["hf"] | None = None  # of the weights' origin: a directory is read as it is
    input_size: Input | None = None
    min_input_size: Input | None = None
    test_input_size: Input | None = None
    fixed_input_size: bool | None = None
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest", "random"] | None = None
    crop_pct: Annotated[float, Field(ge=0.1, le=2)] | None = None
    test_crop_pct: Annotated[float, Field(ge=0.1, le=2)] | None = None
    crop_mode: Literal["border", "center", "squash"] | None = None
    mean: Channels | None = None
    std: Scales | None = None
    num_classes: Classes | None = None
    num_features: Width | None = None
    label_offset: Annotated[int, Field(ge=0, le=50_000)] | None = None
    label_names: Labels | None = None
    labels: Labels | None = None
    label_descriptions: (
        Annotated[dict[ShortText, Annotated[str, Field(max_length=2000)]], Field(max_length=50_000)] | None
    ) = None
    pool_size: Annotated[list[Side], Field(max_length=2)] | None = None
    first_conv: ShortText | Annotated[list[ShortText], Field(max_length=4)] | None = None
    classifier: ShortText | Annotated[list[ShortText], Field(max_length=4)] | None = None
    license: ShortText | None = None
    origin_url: ShortText | None = None
    paper_ids: ShortText | Annotated[list[ShortText], Field(max_length=8)] | None = None
    paper_name: ShortText | None = None
    notes: ShortText | Annotated[list[ShortText], Field(max_length=8)] | None = None


class TimmConfig(ModelArguments):
    """``config.json`` with its parts apart, as timm writes it today.

    Some files have arguments of the network beside ``model_args``; the loader passes them.
    """

    architecture: Architecture
    num_features: Width | None = None
    model_args: ModelArguments | None = None
    pretrained_cfg: PretrainedSettings | None = None
    label_names: Labels | None = None
    label_descriptions: dict[ShortText, Annotated[str, Field(max_length=2000)]] | None = None


class FlatTimmConfig(PretrainedSettings):
    """``config.json`` in one piece, as timm wrote it once."""

    architecture: Architecture


class EfficientNetConfig(BaseModel):
    """What ``lcl_core.encoders.efficientnet`` writes."""

    model_config = _CLOSED

    architecture: Annotated[str, Field(pattern=r"^efficientnet-lite[0-4]$")]
    image_size: Annotated[int, Field(ge=32, le=1024)]
    mean: Channels
    deviation: Scales


def check_timm(directory: Path) -> dict[str, Any]:
    """Raises: UserError ``encoder_unreadable``."""
    config = read_json_object(directory / CONFIG)
    nested = "pretrained_cfg" in config or config.keys() <= TimmConfig.model_fields.keys()
    validate_model(TimmConfig if nested else FlatTimmConfig, config, directory / CONFIG)
    return config


def arguments_beside(config: dict[str, Any]) -> dict[str, Any]:
    """Of a checked ``config.json``: the arguments that stand beside ``model_args``, where timm does not read them."""
    if "pretrained_cfg" not in config:
        return {}
    own = ModelArguments.model_fields.keys() - {"num_classes", "global_pool"}
    known = config.get("model_args") or {}
    return {name: config[name] for name in config if name in own - known.keys() and config[name] is not None}


def check_efficientnet(directory: Path) -> dict[str, Any]:
    """Raises: UserError ``encoder_unreadable``."""
    config = read_json_object(directory / CONFIG)
    validate_model(EfficientNetConfig, config, directory / CONFIG)
    return config
