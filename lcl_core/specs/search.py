"""How a study chooses what it tries, beside its axes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Spec
from lcl_core.specs.metric import MetricSpec
from lcl_core.specs.partial import Anything, Partial

FieldPath = Annotated[str, Field(pattern=r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$", max_length=100)]


class ChoiceSpec(Spec):
    """One of a few values."""

    kind: Literal["choice"]
    values: tuple[Anything, ...] = Field(..., min_length=1, max_length=1000)


class RangeSpec(Spec):
    """A number between two, each equally likely, or (log-uniform) each order of magnitude."""

    kind: Literal["uniform", "log-uniform"]
    low: float
    high: float
    integer: bool = Field(False, description="whole numbers only")

    @model_validator(mode="after")
    def _bounds_rise(self) -> RangeSpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.kind == "log-uniform" and self.low <= 0:
            raise ValueError("the low end of a log-uniform range must be above 0")
        return self


Parameter = Annotated[ChoiceSpec | RangeSpec, Field(discriminator="kind")]


class GridSearch(Spec):
    """Every combination of the axes' variants, and nothing else."""

    kind: Literal["grid"] = "grid"


class _Drawn(Spec):
    trials: int = Field(..., ge=1, le=1000, description="settings to draw; one drawn twice is tried once")
    seed: int = Field(0, ge=0, lt=2**31, description="of the draws: the same seed draws the same settings")
    parameters: dict[FieldPath, Parameter] = Field(
        ..., min_length=1, max_length=50, description="dotted field of the pretrain spec: its range"
    )


class RandomSearch(_Drawn):
    """Settings drawn at random, all of them trained and examined."""

    kind: Literal["random"]


class HalvingSearch(_Drawn):
    """Successive halving: all trials train for a few steps, the best of them for more, and so on.

    Trials are judged by ``validation`` alone; only finalists are examined as the study's ``evaluate`` says.
    """

    kind: Literal["halving"]
    rungs: tuple[Annotated[int, Field(ge=1, le=100_000_000)], ...] = Field(
        ..., min_length=1, max_length=20, description="optimiser steps of each rung, rising"
    )
    keep: float = Field(1 / 3, gt=0, lt=1, description="share of a rung's trials that the next one goes on with")
    finalists: int = Field(1, ge=1, le=100, description="trials of the last rung to be examined")
    validation: Partial = Field(
        ..., description="an evaluate spec without encoder, on a split that the study's own evaluation does not use"
    )
    metric: MetricSpec = Field(..., description="figure of the validation that trials are ranked by")

    @model_validator(mode="after")
    def _rungs_rise(self) -> HalvingSearch:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs {', '.join(map(str, self.rungs))}: each must have more steps than the one before")
        if self.metric.of != "evaluation":
            raise ValueError("metric: trials are ranked by a figure of the validation, not of the training")
        return self


Search = Annotated[GridSearch | RandomSearch | HalvingSearch, Field(discriminator="kind")]
