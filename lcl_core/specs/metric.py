"""Which figure of a run is meant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lcl_core.specs.base import Spec

Heading = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f|]{1,60}$")]
Word = Annotated[str, Field(min_length=1, max_length=100)]


class MetricSpec(Spec):
    """A figure: the mean of all rows of an evaluation that have these values, or one of the training's last line."""

    name: Heading = Field(..., description="head of its column")
    of: Literal["evaluation", "training"] = "evaluation"
    metric: Word = Field(..., description="such as IR@5; of a training such as generation_loss")
    task: Word | None = Field(None, description="only rows of this task; none: any")
    split: Word | None = None
    variant: Word | None = None
    transfer: Word | None = Field(None, description="only rows of this: zero_shot, frozen or full")
    better: Literal["higher", "lower"] = "higher"
