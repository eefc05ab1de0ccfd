"""Spec of a study: a set of runs that fill one table, with axes, seeds, search and metrics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from lcl_core.specs.base import JsonValue, Name, PartialSpec, Spec, apply_preset

Heading = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f|]{1,60}$")]
Word = Annotated[str, Field(min_length=1, max_length=100)]


class MetricSpec(Spec):
    """A figure: the mean of all rows of an evaluation that have these values, or one of the training's last line."""

    name: Heading = Field(..., description="head of its column")
    of: Literal["evaluation", "training"] = Field("evaluation", description="run whose figure it is")
    metric: Word = Field(..., description="such as IR@5; of a training such as generation_loss")
    task: Word | None = Field(None, description="only rows of this task; none: any")
    split: Word | None = Field(None, description="only rows of this split; none: any")
    variant: Word | None = Field(None, description="only rows of this variant; none: any")
    transfer: Word | None = Field(None, description="only rows of this: zero_shot, frozen or full")
    better: Literal["higher", "lower"] = Field("higher", description="which of two figures is better")


FieldPath = Annotated[str, Field(pattern=r"^[a-z_]+(\.([a-z_]+|[0-9]+))*$", max_length=100)]


class ChoiceSpec(Spec):
    """One of a few values."""

    kind: Literal["choice"] = Field(description="one of some values")
    values: tuple[JsonValue, ...] = Field(..., min_length=1, max_length=1000, description="values, each equally likely")


class RangeSpec(Spec):
    """A number between two, each (or, log-uniform, each order of magnitude) equally likely; whole if both are."""

    kind: Literal["uniform", "log-uniform"] = Field(description="how a number is drawn")
    low: int | float = Field(description="least value")
    high: int | float = Field(description="greatest value")

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

    kind: Literal["grid"] = Field("grid", description="every combination of the axes")


class RandomSearch(Spec):
    """Settings drawn at random, all of them trained and examined."""

    kind: Literal["random"] = Field(description="settings drawn at random")
    trials: int = Field(..., ge=1, le=1000, description="settings to draw; one drawn twice is tried once")
    seed: int = Field(0, ge=0, lt=2**31, description="of the draws: the same seed draws the same settings")
    parameters: dict[FieldPath, Parameter] = Field(
        ..., min_length=1, max_length=50, description="dotted field of the pretrain spec: its range"
    )


Search = Annotated[GridSearch | RandomSearch, Field(discriminator="kind")]


Seed = Annotated[int, Field(ge=0, lt=2**31)]
TRIAL = "trial"  # the axis that a search adds
RESERVED = ("seed", TRIAL, "metric")  # columns of the table that are there anyway


class VariantSpec(Spec):
    """One of the settings that an axis compares."""

    name: Name = Field(..., description="label of its rows")
    spec: PartialSpec = Field(
        {}, description="fields of the pretrain spec laid over the base; keys may be dotted, such as objective.name"
    )


class AxisSpec(Spec):
    """What is varied. Several axes: every combination."""

    name: Name = Field(..., description="head of its column")
    variants: tuple[VariantSpec, ...] = Field(..., min_length=1, max_length=1000, description="what it compares")

    @model_validator(mode="after")
    def _names_differ(self) -> AxisSpec:
        _check_unique([variant.name for variant in self.variants], f"axis {self.name} has two variants named")
        if self.name in RESERVED:
            raise ValueError(f"an axis cannot be named {self.name}; that column is there anyway")
        return self


class StudySpec(Spec):
    """Pre-train every combination of the axes with every seed, examine each encoder, and tabulate the figures."""

    preset: Name | None = Field(None, description="named starting point; fields of the spec override it")
    question: str = Field(
        "", max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$", description="question of the study, in a sentence"
    )
    pretrain: PartialSpec = Field({}, description="the base: a pretrain spec, or a preset and the fields that differ")
    axes: tuple[AxisSpec, ...] = Field((), max_length=8, description="what is varied; every combination is trained")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, max_length=100, description="one run a seed of every row")
    evaluate: PartialSpec = Field({}, description="an evaluate spec without encoder, for every encoder made")
    metrics: tuple[MetricSpec, ...] = Field(..., min_length=1, max_length=50, description="columns of the table")
    search: Search = Field(GridSearch(), description="search of settings besides the axes")
    baseline: dict[Name, Name] | None = Field(
        None, description="the row that others are compared with, as axis: variant; none: the first"
    )
    compute: Literal["seconds", "images_seen", "tokens_seen", "flops"] = Field(
        "seconds", description="cost on the x axis of the quality plot"
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, fields: Any) -> Any:
        return apply_preset("study", fields)

    @model_validator(mode="after")
    def _names_differ(self) -> StudySpec:
        _check_unique([axis.name for axis in self.axes], "there are two axes named")
        _check_unique([metric.name for metric in self.metrics], "there are two metrics named")
        _check_unique([str(seed) for seed in self.seeds], "there are two seeds")
        return self

    @model_validator(mode="after")
    def _baseline_is_a_row(self) -> StudySpec:
        known = {axis.name: [variant.name for variant in axis.variants] for axis in self.axes}
        if self.baseline is not None and (
            self.baseline.keys() != known.keys() or any(name not in known[axis] for axis, name in self.baseline.items())
        ):
            raise ValueError(f"baseline must name one variant of each axis ({', '.join(known) or 'there is none'})")
        return self


class AdditionSpec(Spec):
    """What a study is extended by; what it has already stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seeds": [3, 4]}]})

    seeds: tuple[Seed, ...] = Field((), max_length=100, description="more seeds")
    axes: tuple[AxisSpec, ...] = Field((), max_length=8, description="new variants of the study's axes")
    trials: int | None = Field(None, ge=1, le=1000, description="total settings of a random search")


def _check_unique(names: list[str], words: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{words} {twice}")
