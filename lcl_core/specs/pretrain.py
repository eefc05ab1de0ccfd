"""A pre-training job."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lcl_core.errors import UserError
from lcl_core.specs.base import Fraction, Name, Spec
from lcl_core.specs.data import VIEW_GIVES, DataSpec
from lcl_core.specs.engine import EngineSpec
from lcl_core.specs.model import ModelSpec, TokenizerSpec
from lcl_core.specs.objective import METHODS, ObjectiveSpec
from lcl_core.specs.presets import filled


class BatchSpec(Spec):
    """A step's batch: documents packed without padding until either budget is full."""

    tokens: int = Field(4096, ge=64, le=4_194_304)
    images: int = Field(64, ge=1, le=65_536)


class OptimizerSpec(Spec):
    """AdamW with the authors' decay groups; linear warm-up, then the schedule."""

    lr: float = Field(5e-4, gt=0, le=1)
    weight_decay: float = Field(0.2, ge=0, le=10)
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    schedule: Literal["cosine", "constant", "constant_with_decay"] = Field(
        "cosine", description="after the warm-up; cosine ends at zero, constant_with_decay goes there in decay_steps"
    )
    decay_steps: int = Field(0, ge=0, description="last steps in which constant_with_decay falls in a line to zero")
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient's norm; none: no clipping")

    @model_validator(mode="after")
    def _decay_belongs_to_its_schedule(self) -> OptimizerSpec:
        if (self.schedule == "constant_with_decay") != (self.decay_steps > 0):
            raise ValueError("decay_steps must be above 0 with schedule constant_with_decay, and 0 with any other")
        return self


class PretrainSpec(Spec):
    """Pre-train a vision encoder from scratch. ``preset`` fills in every field that is not given."""

    preset: Name | None = Field(None, description="named starting point; given fields win over it")
    model: ModelSpec = ModelSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    data: DataSpec = DataSpec()
    batch: BatchSpec = BatchSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    engine: EngineSpec = EngineSpec()
    steps: int = Field(1000, ge=1, le=100_000_000, description="optimiser steps")
    seed: int = Field(0, ge=0, lt=2**31)
    numerics: Literal["fixed", "official"] = Field("fixed", description="official: the authors' behaviour, faults too")
    patch_drop: float = Field(0.0, ge=0, le=0.9, description="share of an image's patches left out in training")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    log_every: int = Field(10, ge=1, description="steps between metric lines")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    checkpoint_minutes: float | None = Field(
        5.0, gt=0, le=10_080, description="minutes after which one is written before that; none: by steps alone"
    )
    keep_checkpoints: int = Field(2, ge=1, le=100)
    milestone_every: int | None = Field(None, ge=1, description="checkpoints of these steps are kept for ever")
    async_checkpoint: bool = Field(True, description="write checkpoints while the next steps run")
    ema_decay: float | None = Field(None, ge=0, lt=1, description="export averaged weights; none: the last ones")
    timeout_seconds: float | None = Field(None, gt=0, description="end the run as failed after this long")

    @model_validator(mode="after")
    def _official_takes_whole_batches(self) -> PretrainSpec:
        if self.numerics == "official" and self.engine.accumulate > 1:
            raise ValueError("engine.accumulate needs numerics fixed: the authors' accumulation is not reproduced")
        return self

    @model_validator(mode="after")
    def _the_method_fits(self) -> PretrainSpec:
        """Raises: UserError naming the field; a ValueError could not, since this is about several."""
        name, method = self.objective.name, METHODS[self.objective.name]
        if self.numerics == "official" and not method.official:
            known = ", ".join(other for other, facts in METHODS.items() if facts.official)
            message = f"numerics official are defined for {known} alone; take fixed for objective {name}"
            raise UserError(f"numerics: {message}", code="bad_spec", field="numerics")
        for number, source in enumerate(self.data.sources):
            if VIEW_GIVES[source.view] not in method.reads:
                views = " or ".join(view for view, gives in VIEW_GIVES.items() if gives in method.reads)
                others = ", ".join(other for other, facts in METHODS.items() if VIEW_GIVES[source.view] in facts.reads)
                field = f"data.sources.{number}.view"
                message = f"objective {name} learns from {views}, not from {source.view}; or choose {others}"
                raise UserError(f"{field}: {message}", code="bad_spec", field=field)
        return self

    @property
    def kept_patches(self) -> int:
        """Patch tokens of an image that training looks at."""
        return max(1, round(self.model.num_image_tokens * (1 - self.patch_drop)))

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        return filled("pretrain", given)
