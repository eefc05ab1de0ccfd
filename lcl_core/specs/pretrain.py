"""A pre-training job."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Fraction, Name, Spec
from lcl_core.specs.data import DataSpec
from lcl_core.specs.model import ModelSpec, TokenizerSpec
from lcl_core.specs.presets import merged, presets


class BatchSpec(Spec):
    """A step's batch: documents packed without padding until either budget is full."""

    tokens: int = Field(4096, ge=64, le=4_194_304)
    images: int = Field(64, ge=1, le=65_536)


class ObjectiveSpec(Spec):
    name: Name = Field("lcl", description="pre-training method")
    contrastive_weight: float = Field(0.1, ge=0, le=1000, description="lambda of the contrastive loss")
    generation_weight: float = Field(1.0, ge=0, le=1000)


class OptimizerSpec(Spec):
    """AdamW with the authors' decay groups; linear warm-up, then cosine to zero or constant."""

    lr: float = Field(5e-4, gt=0, le=1)
    weight_decay: float = Field(0.2, ge=0, le=10)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")


class PretrainSpec(Spec):
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
        return merged(known[given["preset"]], given)
