"""From a corpus in any format to shards that can be streamed."""

from __future__ import annotations

from pydantic import Field, field_validator

from lcl_core.roots import is_url
from lcl_core.specs.base import Name
from lcl_core.specs.validate import CorpusSpec


class ConvertSpec(CorpusSpec):
    """Write a corpus as tar shards with an index, and register them as a dataset."""

    name: Name = Field(..., description="name of the dataset to make; one that exists gets a new version")
    shard_megabytes: int = Field(256, ge=1, le=16_384, description="a shard is closed when it is larger than this")
    to: str | None = Field(
        None, max_length=4096, description="URL below a data root that gets the shards; none: the service's own disk"
    )
    timeout_seconds: float | None = Field(None, gt=0)

    @field_validator("to")
    @classmethod
    def _to_is_a_url(cls, given: str | None) -> str | None:
        if given is not None and not is_url(given):
            raise ValueError("shards go to a URL such as s3://bucket/prefix; leave it out to keep them on disk")
        return given and given.rstrip("/")
