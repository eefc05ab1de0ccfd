"""An examination of an encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lcl_core.specs.base import Name, Spec


class ClassificationSpec(Spec):
    """Attentive pooling and a linear layer on the frozen patch features (paper, transfer heads (a))."""

    labels: tuple[Name, ...] = Field(("subgroup",), description="keys of the corpus's labels to learn")
    train_split: Name = "train"
    epochs: int = Field(20, ge=1, le=1000)
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.05, ge=0, le=10)
    batch_size: int = Field(128, ge=1, le=65_536)


class EvaluateSpec(Spec):
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
