"""Classification with a head that is trained."""

from __future__ import annotations

from pydantic import Field

from lcl_core.specs.base import Name
from lcl_core.specs.tuning import TuningSpec


class ClassificationSpec(TuningSpec):
    """Attentive pooling and a linear layer on the patch features (paper, transfer heads (a))."""

    labels: tuple[Name, ...] = Field(("subgroup",), min_length=1, description="keys of the corpus's labels to learn")
    train_split: Name = Field("train", description="split to learn from")
