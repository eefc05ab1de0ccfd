"""Filling a collection that can be searched."""

from __future__ import annotations

from pydantic import Field

from lcl_core.specs.base import Name, Spec


class IndexSpec(Spec):
    """Embed a corpus's images and captions into a collection that can be searched."""

    encoder: Name = Field(..., description="id or name of a registered encoder")
    dataset: Name = Field("sample", description="name of a registered dataset with captioned images")
    splits: tuple[Name, ...] | None = Field(None, description="only these splits; none: all")
    collection: Name = Field(..., description="name of the collection to make; an older one of that name is replaced")
    batch_size: int = Field(256, ge=1, le=4096)
    timeout_seconds: float | None = Field(None, gt=0)
