"""Encoders: list, import and comparison."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.schemas.base import PathText, RequestModel, RowView
from lcl_core.specs.base import Name


class EncoderView(RowView):
    id: str
    name: str
    hash: str = Field(description="sha256 of the weights")
    identity: str | None = Field(description="sha256 over all files; null: of an older version, not looked at yet")
    owner: str
    run_id: str | None
    info: dict[str, Any]
    created_at: datetime


class EncoderImportRequest(RequestModel):
    name: Name
    path: PathText = Field(
        description="directory on the server, inside its data roots: of lcl, OpenCLIP, timm or Hugging Face"
    )
    allow_twin: bool = Field(
        False, description="though its weights are those of a known encoder and other files differ; for who owns that"
    )


class EncoderComparisonView(BaseModel):
    left: EncoderView
    right: EncoderView
    rows: list[dict[str, Any]]
