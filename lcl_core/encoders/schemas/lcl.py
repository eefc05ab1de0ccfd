"""What the configuration of an encoder of ours may say, and the tensors that follow from it. Knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lcl_core.encoders.schemas.base import Finite, ShortText, Version, read_json_object, schema_error, validate_model
from lcl_core.specs.vision import DEFAULT_TOWER, TOWER_PATTERN, TowerSizes, tower_kind

CONFIG, PROCESSOR = "config.json", "processor_config.json"

SPECIAL_TOKENS = {  # field of config.json: token of the tokenizer whose id it is
    "sot_token_id": "<start_of_text>",
    "eot_token_id": "<end_of_text>",
    "img_token_id": "<img_placehold>",
    "soi_token_id": "<start_of_img>",
    "eoi_token_id": "<end_of_img>",
}
Width = Annotated[int, Field(ge=1, le=8192)]
Layers = Annotated[int, Field(ge=0, le=128)]
Heads = Annotated[int, Field(ge=1, le=512)]
Token = Annotated[int, Field(ge=0, lt=1 << 20)]
Shapes = dict[str, tuple[int, ...]]


class LCLSettings(BaseModel):
    """``config.json``, closed: bounds are those of a run's ``ModelSpec`` or wider."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model_type: Literal["lcl"]
    image_size: Annotated[int, Field(ge=1, le=4096)] = 224
    patch_size: Annotated[int, Field(ge=1, le=512)] = 32
    vision: Annotated[str, Field(pattern=TOWER_PATTERN)] = DEFAULT_TOWER
    vision_width: Width = 768
    vision_layers: Layers = 12
    vision_head_width: Width = 64
    text_width: Width = 512
    text_layers: Layers = 12
    text_heads: Heads = 8
    pool_heads: Heads | None = None
    context_length: Annotated[int, Field(ge=1, le=65_536)] = 2048
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)] = 49_411
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = 4.0
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    sot_token_id: Token = 49_406
    eot_token_id: Token = 49_407
    img_token_id: Token = 49_408
    soi_token_id: Token = 49_409
    eoi_token_id: Token = 49_410
    text_attention: Literal["causal", "bidirectional"] = "causal"
    contrastive_weight: Finite = 0.1
    generation_weight: Finite = 1.0
    numerics: Literal["fixed", "official"] = "fixed"
    # what transformers writes besides
    architectures: Annotated[list[ShortText], Field(max_length=4)] | None = None
    auto_map: LCLAutoMap | None = None
    dtype: Dtype | None = None
    torch_dtype: Dtype | None = None
    transformers_version: Version | None = None
    tie_word_embeddings: bool = False
    return_dict: bool = True
    output_hidden_states: Literal[False] = False
    output_attentions: Literal[False] = False

    @model_validator(mode="after")
    def _sizes_divide(self) -> LCLSettings:
        for large, small in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_head_width"),
            ("text_width", "text_heads"),
            ("text_width", "pool_heads"),
        ):
            if small == "vision_head_width" and not tower_kind(self.vision).patchwise:
                continue
            if (divisor := getattr(self, small)) is not None and getattr(self, large) % divisor:
                raise ValueError(f"{large} must be a multiple of {small}")
        if misfit := tower_kind(self.vision).misfit(self.tower_sizes):
            raise ValueError(": ".join(misfit))
        specials = self.special_ids.values()
        if max(specials) >= self.vocab_size or len(set(specials)) < len(specials):
            raise ValueError("the five special token ids must differ and lie below vocab_size")
        return self

    @property
    def special_ids(self) -> dict[str, int]:
        """{token of the tokenizer: its id}."""
        return {token: getattr(self, field) for field, token in SPECIAL_TOKENS.items()}

    @property
    def tower_sizes(self) -> TowerSizes:
        patches = (self.image_size // self.patch_size) ** 2
        return TowerSizes(self.patch_size, self.vision_width, self.vision_layers, patches)


class LCLAutoMap(BaseModel):
    """The code that exports write beside the weights, this version's and older ones'. It is never run.

    ``configuration_lcl``: as transformers writes it when it saves the export again.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    AutoConfig: Literal["modeling_lcl.LCLConfig", "configuration_lcl.LCLConfig"]
    AutoModel: Literal["encoder_model.LCLEncoderModel", "modeling_lcl.LCLModel"]


class LCLProcessorSettings(BaseModel):
    """``processor_config.json``, closed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_size: Annotated[int, Field(ge=1, le=4096)]
    processor_class: Literal["LCLProcessor"] = "LCLProcessor"
    auto_map: LCLProcessorMap | None = None


class LCLProcessorMap(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    AutoProcessor: Literal["processing_lcl.PortableProcessor", "processing_lcl.LCLProcessor"]


Dtype = Literal["float32", "float16", "bfloat16", "float64"]


def read_settings(directory: Path) -> LCLSettings:
    """``config.json`` and ``processor_config.json``, checked. Raises: UserError ``encoder_unreadable``."""
    settings = validate_model(LCLSettings, read_json_object(directory / CONFIG), directory / CONFIG)
    processor = directory / PROCESSOR
    prepared = validate_model(LCLProcessorSettings, read_json_object(processor), processor)
    if prepared.image_size != settings.image_size:
        raise schema_error(
            processor, f"image_size {prepared.image_size} is not that of config.json, which is {settings.image_size}"
        )
    return settings


def expected_shapes(settings: LCLSettings) -> Shapes:
    """The tensors that LCLModel of these settings saves, by name; without those of a timm tower."""
    width, text, vocabulary = settings.vision_width, settings.text_width, settings.vocab_size
    kind, sizes = tower_kind(settings.vision), settings.tower_sizes
    found: Shapes = {
        "logit_scale": (),
        "lm_head.1.weight": (vocabulary, text),
        "text.token_embedding.weight": (vocabulary, text),
        "text.positional_embedding": (settings.context_length, text),
        "text.text_projection": (text, text),
        "pool_project.query_token": (1, 1, width),
        "pool_project.pooler.cross_attn.proj.weight": (text, text),
        **_norm("lm_head.0", text),
        **_norm("text.ln_final", text),
    }
    if kind.convolutions is not None:
        found |= {f"visual.{name}": tensor.shape for name, tensor in kind.convolutions(sizes).items()}
    if kind.patchwise:
        found |= {"visual.class_embedding": (width,), "visual.positional_embedding": (sizes.patches + 1, width)}
        found |= {**_norm("visual.ln_pre", width), **_norm("visual.ln_post", width)}
    for part in "qkv":
        found |= _norm(f"pool_project.pooler.norm1_{part}", width)
        found[f"pool_project.pooler.cross_attn.{part}.weight"] = (text, width)
        found[f"pool_project.pooler.cross_attn.{part}_bias"] = (text,)
    vision_layers = settings.vision_layers if kind.patchwise else 0
    for tower, across, layers in (("visual", width, vision_layers), ("text", text, settings.text_layers)):
        for layer in range(layers):
            found |= _block(f"{tower}.transformer.resblocks.{layer}", across, settings.mlp_ratio)
    return found


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(name: str, width: int, mlp_ratio: float) -> Shapes:
    hidden = int(width * mlp_ratio)
    linear = {
        "attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width),
        "mlp.c_fc.": (hidden, width), "mlp.c_proj.": (width, hidden),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for part, shape in linear.items():
        found |= {f"{name}.{part}weight": shape, f"{name}.{part}bias": shape[:1]}
    return {**found, **_norm(f"{name}.ln_1", width), **_norm(f"{name}.ln_2", width)}
