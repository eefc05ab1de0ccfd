"""Assigning images to sentences where a corpus does not say which belong together."""

from __future__ import annotations

from pydantic import Field

from lcl_core.specs.base import Name
from lcl_core.specs.convert import ConvertSpec


class MatchSpec(ConvertSpec):
    """Assign each image of a document to a sentence by an encoder, and register the result as a dataset."""

    encoder: Name = Field(..., description="id or name of a registered encoder")
