"""An examination of a corpus."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from lcl_core.roots import is_url
from lcl_core.specs.base import Name, Spec


class CorpusSpec(Spec):
    """A corpus: by its registered name, or where it lies in whatever format it has."""

    dataset: Name | None = Field(None, description="name of a registered dataset")
    path: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="or a file or folder on the server, or a URL of shards, inside its data roots",
    )
    format: str = Field("auto", max_length=40, description="format of what lies at path; auto: recognised")
    options: dict[str, Any] = Field({}, description="options of the format's reader")

    @model_validator(mode="after")
    def _one_of_two(self) -> CorpusSpec:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("name either a dataset or a path")
        foreign = self.format != "auto" or bool(self.options)
        if self.dataset is not None and foreign:
            raise ValueError("format and options are for a path; a registered dataset has its own form")
        if self.path is not None and is_url(self.path) and foreign:
            raise ValueError("format and options are for files on disk; at a URL there are shards")
        return self


class ValidateSpec(CorpusSpec):
    """Read a corpus once, in parallel: counts, distributions, and a list of what is wrong with it."""

    workers: int | None = Field(None, ge=0, le=256, description="processes that decode; none: one a core, at most 16")
    tokens: bool = Field(True, description="measure texts in CLIP tokens; otherwise in words, which is faster")
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are not usable")
    min_image_side: int = Field(8, ge=1, le=4096, description="a shorter side below this is too small, pixels")
    timeout_seconds: float | None = Field(None, gt=0)
