"""From a corpus in any format to shards that can be streamed."""

from __future__ import annotations

from pydantic import Field

from lcl_core.specs.base import Name
from lcl_core.specs.validate import CorpusSpec


class ConvertSpec(CorpusSpec):
    """Write a corpus as tar shards with an index, and register them as a dataset."""

    name: Name = Field(..., description="name of the dataset to make; one that exists gets a new version")
    shard_megabytes: int = Field(256, ge=1, le=16_384, description="a shard is closed when it is larger than this")
    timeout_seconds: float | None = Field(None, gt=0)
