"""Classification from a few pictures of each class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lcl_core.specs.tasks.classification import ClassificationSpec
from lcl_core.specs.tuning import Transfer

Shots = Annotated[int, Field(ge=1, le=10_000)]


class FewShotSpec(ClassificationSpec):
    """The classification head, learnt several times from a few seeded pictures of each class."""

    transfer: tuple[Transfer, ...] | None = Field(
        ("frozen",), min_length=1, description="of this task alone; none: as the evaluation says"
    )
    shots: tuple[Shots, ...] = Field((1, 4, 16), min_length=1, description="training pictures of each class")
    draws: int = Field(5, ge=2, le=100, description="times that pictures are drawn; results are means over them")
    steps: int | None = Field(100, ge=1, le=1_000_000, description="optimiser steps; none: epochs decide")

    @model_validator(mode="after")
    def _shots_rise(self) -> FewShotSpec:
        if list(self.shots) != sorted(set(self.shots)):
            raise ValueError("shots must rise, each named once")
        return self
