"""A set of runs that fill one table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lcl_core.specs.base import Name, Spec
from lcl_core.specs.metric import MetricSpec
from lcl_core.specs.partial import Partial
from lcl_core.specs.presets import filled
from lcl_core.specs.search import GridSearch, Search

Seed = Annotated[int, Field(ge=0, lt=2**31)]
TRIAL = "trial"  # the axis that a search adds
RESERVED = ("seed", "rung", TRIAL, "metric")  # columns of the table that are there anyway


class VariantSpec(Spec):
    """One of the settings that an axis compares."""

    name: Name
    spec: Partial = Field(
        {}, description="fields of the pretrain spec laid over the base; keys may be dotted, such as objective.name"
    )


class AxisSpec(Spec):
    """What is varied. Several axes: every combination."""

    name: Name
    variants: tuple[VariantSpec, ...] = Field(..., min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _names_differ(self) -> AxisSpec:
        _refuse_twice([variant.name for variant in self.variants], f"axis {self.name} has two variants named")
        if self.name in RESERVED:
            raise ValueError(f"an axis cannot be named {self.name}; that column is there anyway")
        return self


class StudySpec(Spec):
    """Pre-train every combination of the axes with every seed, examine each encoder, and tabulate the figures."""

    preset: Name | None = Field(None, description="named starting point; given fields win over it")
    question: str = Field(
        "", max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$", description="what the study asks, in a sentence"
    )
    pretrain: Partial = Field({}, description="the base: a pretrain spec, or a preset and what differs")
    axes: tuple[AxisSpec, ...] = Field((), max_length=8)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, max_length=100, description="one run a seed of every row")
    evaluate: Partial = Field({}, description="an evaluate spec without encoder, for every encoder made")
    metrics: tuple[MetricSpec, ...] = Field(..., min_length=1, max_length=50, description="columns of the table")
    search: Search = Field(GridSearch(), description="how settings are chosen beside the axes")
    baseline: dict[Name, Name] | None = Field(
        None, description="the row that others are compared with, as axis: variant; none: the first"
    )
    compute: Literal["seconds", "images_seen", "tokens_seen", "flops"] = Field(
        "seconds", description="what quality is plotted against"
    )
    max_cells: int = Field(100, ge=1, le=2000, description="refuse to become more pre-trainings than this")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        return filled("study", given)

    @model_validator(mode="after")
    def _names_differ(self) -> StudySpec:
        _refuse_twice([axis.name for axis in self.axes], "there are two axes named")
        _refuse_twice([metric.name for metric in self.metrics], "there are two metrics named")
        _refuse_twice([str(seed) for seed in self.seeds], "there are two seeds")
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

    seeds: tuple[Seed, ...] = Field((), max_length=100)
    axes: tuple[AxisSpec, ...] = Field((), max_length=8, description="new variants of axes that the study has")
    trials: int | None = Field(None, ge=1, le=1000, description="so many settings of a random search in all")


def _refuse_twice(names: list[str], words: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{words} {twice}")
