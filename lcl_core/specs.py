"""The one vocabulary of REST, command line, workers and page: what a job is to do. Knows no torch.

Every field carries its meaning, unit and bounds; forms and documentation are made from the JSON schema.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lcl_core.errors import UserError

Kind = Literal["pretrain", "evaluate", "index"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(_Spec):
    """Sizes of the two towers and the pooler (Method section; the paper's ViT-B/32 is 768 x 12 with 512 x 12)."""

    image_size: int = Field(64, ge=16, le=1024, description="side of the square input, pixels")
    patch_size: int = Field(16, ge=2, le=128, description="side of a patch, pixels; divides image_size")
    vision_width: int = Field(192, ge=16, le=4096)
    vision_layers: int = Field(6, ge=1, le=64)
    vision_head_width: int = Field(64, ge=8, le=256)
    text_width: int = Field(192, ge=16, le=4096)
    text_layers: int = Field(4, ge=1, le=64)
    text_heads: int = Field(3, ge=1, le=64)
    context_length: int = Field(256, ge=8, le=65536, description="longest document, tokens (position table)")

    @model_validator(mode="after")
    def _sizes_divide(self) -> ModelSpec:
        for large, small in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_head_width"),
            ("text_width", "text_heads"),
        ):
            if getattr(self, large) % getattr(self, small):
                raise ValueError(
                    f"{large} {getattr(self, large)} must be a multiple of {small} {getattr(self, small)}"
                )
        if self.num_image_tokens + 3 > self.context_length:
            raise ValueError(
                f"context_length {self.context_length} cannot hold one image of {self.num_image_tokens} tokens; "
                "raise it or patch_size"
            )
        return self

    @property
    def num_image_tokens(self) -> int:
        """Patch tokens an image takes in the document."""
        return (self.image_size // self.patch_size) ** 2


class TokenizerSpec(_Spec):
    kind: Literal["bpe", "clip"] = Field("bpe", description="trained on the corpus, or CLIP's 49,408 tokens")
    vocab_size: int = Field(4096, ge=300, le=200_000, description="for bpe: tokens without the five specials")


class SourceSpec(_Spec):
    """One corpus in the mixture."""

    dataset: Name = Field("sample", description="name of a registered dataset")
    view: Literal["interleaved", "pairs"] = Field("interleaved", description="its documents, or its captioned images")
    split: Name = Field("train", description="split of the captioned images")
    weight: float = Field(1.0, gt=0, le=1000, description="share of the documents, relative to the other sources")


class AugmentationSpec(_Spec):
    """What happens to a training picture; the default is the authors' light random crop."""

    crop_scale: tuple[Fraction, Fraction] = Field((0.9, 1.0), description="share of the area that a crop keeps")
    flip_probability: Fraction = Field(0.0, description="chance of a mirror image")
    colour_jitter: Fraction = Field(0.0, description="brightness, contrast and saturation change by up to this share")
    grey_probability: Fraction = Field(0.0, description="chance of no colour at all")

    @model_validator(mode="after")
    def _scale_rises(self) -> AugmentationSpec:
        low, high = self.crop_scale
        if not 0 < low <= high:
            raise ValueError(f"crop_scale {low}, {high}: the first must be above 0 and at most the second")
        return self


class DataSpec(_Spec):
    sources: tuple[SourceSpec, ...] = Field((SourceSpec(),), min_length=1, max_length=32)
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are left out")
    max_images: int = Field(6, ge=1, le=255, description="images a document keeps, first ones first")
    min_images: int = Field(1, ge=1, le=255)
    piece_images: int | None = Field(None, ge=1, le=255, description="cut documents into pieces of at most this many")
    image_first_probability: Fraction = Field(0.5, description="chance that an image stands before its sentence")
    augmentation: AugmentationSpec = AugmentationSpec()


class BatchSpec(_Spec):
    """A step's batch: documents packed without padding until either budget is full."""

    tokens: int = Field(4096, ge=64, le=4_194_304)
    images: int = Field(64, ge=1, le=65_536)


class ObjectiveSpec(_Spec):
    name: Name = Field("lcl", description="pre-training method")
    contrastive_weight: float = Field(0.1, ge=0, le=1000, description="lambda of the contrastive loss")
    generation_weight: float = Field(1.0, ge=0, le=1000)


class OptimizerSpec(_Spec):
    """AdamW with the authors' decay groups; linear warm-up, then cosine to zero or constant."""

    lr: float = Field(5e-4, gt=0, le=1)
    weight_decay: float = Field(0.2, ge=0, le=10)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")


class PretrainSpec(_Spec):
    """Pre-train a vision encoder from scratch. ``preset`` fills in every field that is not given."""

    preset: Name | None = Field(None, description="named starting point; given fields win over it")
    model: ModelSpec = ModelSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    data: DataSpec = DataSpec()
    batch: BatchSpec = BatchSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    steps: int = Field(1000, ge=1, le=100_000_000, description="optimiser steps")
    seed: int = Field(0, ge=0, lt=2**31)
    numerics: Literal["fixed", "official"] = Field("fixed", description="official: the authors' behaviour, faults too")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    log_every: int = Field(10, ge=1, description="steps between metric lines")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, le=100)
    timeout_seconds: float | None = Field(None, gt=0, description="end the run as failed after this long")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") is None:
            return given
        known = presets("pretrain")
        if given["preset"] not in known:
            raise ValueError(f"preset {given['preset']!r} is not known; choose from {', '.join(sorted(known))}")
        return _merged(known[given["preset"]], given)


class ClassificationSpec(_Spec):
    """Attentive pooling and a linear layer on the frozen patch features (paper, transfer heads (a))."""

    labels: tuple[Name, ...] = Field(("subgroup",), description="keys of the corpus's labels to learn")
    train_split: Name = "train"
    epochs: int = Field(20, ge=1, le=1000)
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0, le=10)
    batch_size: int = Field(128, ge=1, le=65_536)


class EvaluateSpec(_Spec):
    """Examine a frozen encoder, every number beside chance and the same architecture untrained."""

    encoder: Name = Field(..., description="id or name of a registered encoder")
    dataset: Name = Field("sample", description="name of a registered dataset with captioned images")
    splits: tuple[Name, ...] = Field(("test_vendor",), min_length=1)
    tasks: tuple[Literal["retrieval", "classification"], ...] = Field(("retrieval", "classification"), min_length=1)
    source: Name | None = Field(None, description="only images of this source, such as emoji")
    classification: ClassificationSpec = ClassificationSpec()
    untrained_baseline: bool = True
    seed: int = Field(0, ge=0, lt=2**31)
    timeout_seconds: float | None = Field(None, gt=0)


class IndexSpec(_Spec):
    """Embed a corpus's images and captions into a collection that can be searched."""

    encoder: Name = Field(..., description="id or name of a registered encoder")
    dataset: Name = Field("sample", description="name of a registered dataset with captioned images")
    splits: tuple[Name, ...] | None = Field(None, description="only these splits; none: all")
    collection: Name = Field(..., description="name of the collection to make; an older one of that name is replaced")
    batch_size: int = Field(256, ge=1, le=4096)
    timeout_seconds: float | None = Field(None, gt=0)


Spec = PretrainSpec | EvaluateSpec | IndexSpec
SPECS: dict[str, type[PretrainSpec] | type[EvaluateSpec] | type[IndexSpec]] = {
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
    "index": IndexSpec,
}


def parse_spec(kind: str, value: Any) -> Spec:
    """Validate ``value`` as a spec of ``kind``.

    Raises:
        UserError: ``unknown_kind``, or ``bad_spec`` with the dotted field and what it allows.
    """
    if kind not in SPECS:
        message = f"kind {kind!r} is not known; choose from {', '.join(SPECS)}"
        raise UserError(message, code="unknown_kind", field="kind")
    try:
        return SPECS[kind].model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        got = "" if first["type"] in ("missing", "value_error") else f" (got {_short(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{field or 'spec'}: {message}{got}", code="bad_spec", field=field) from None


def presets(kind: str) -> dict[str, dict[str, Any]]:
    """Named starting points, kept as data in ``lcl_core/presets/KIND/*.json``; each may hold a ``description``."""
    folder = resources.files("lcl_core") / "presets" / kind
    if not folder.is_dir():
        return {}
    found = {}
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            preset = cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
            preset.pop("description", None)
            found[file.name.removesuffix(".json")] = preset
    return found


def datasets_of(spec: Spec) -> tuple[str, ...]:
    """Names of the datasets that a spec reads, each once."""
    if isinstance(spec, PretrainSpec):
        return tuple(dict.fromkeys(source.dataset for source in spec.data.sources))
    return (spec.dataset,)


def encoders_of(spec: Spec) -> tuple[str, ...]:
    """Encoders that a spec starts from."""
    return () if isinstance(spec, PretrainSpec) else (spec.encoder,)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
