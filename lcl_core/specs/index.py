"""Filling a collection that can be searched."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lcl_core.specs.base import Name, Spec


class IndexSpec(Spec):
    """Embed a corpus's images and captions into a collection that can be searched."""

    encoder: Name = Field(..., description="id or name of a registered encoder")
    dataset: Name | None = Field(
        "sample", description="name of a registered dataset with captioned images; none, with mode add: nothing more"
    )
    splits: tuple[Name, ...] | None = Field(None, description="only these splits; none: all")
    collection: Name = Field(..., description="name of the collection to make, or to add to")
    mode: Literal["replace", "add"] = Field(
        "replace",
        description="replace: an older collection of that name goes; add: it keeps what it holds, embedded once and "
        "not again, takes in what was added and removed since, and gets what the dataset has besides",
    )
    index: Literal["auto", "files", "pgvector"] = Field(
        "auto",
        description="what searches it: files, the api in the collection's own files; pgvector, PostgreSQL with that "
        "extension; auto: what it has been, in mode add, else files",
    )
    batch_size: int = Field(256, ge=1, le=4096)
    timeout_seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.dataset is None and self.mode == "replace":
            raise ValueError("without a dataset there is nothing to make a collection of; name one, or set mode to add")
        return self
