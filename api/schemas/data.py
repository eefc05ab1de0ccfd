"""Datasets and encoders: registration, import, validation, versions, documents, comparison."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from api.schemas.base import PathText, RequestModel, RowView
from lcl_core.specs.base import Name


class CorpusPathRequest(RequestModel):
    path: PathText = Field(description="folder or zip on the server, or a URL of shards, inside its data roots")


class CorpusInputRequest(CorpusPathRequest):
    format: Annotated[str, StringConstraints(max_length=40)] = Field("auto", description="of what lies at path")
    options: dict[str, Any] = Field({}, description="of the format's reader")


class ValidationRequest(RequestModel):
    """How a corpus is to be validated; the spec of kind validate says what each field means."""

    workers: int | None = None
    tokens: bool = True
    similarity_threshold: float = 0.24
    min_image_side: int = 8


class PathValidationRequest(CorpusInputRequest, ValidationRequest):
    """The same for a corpus that is not registered."""


class DatasetRequest(CorpusPathRequest):
    name: Name
    new_version: bool = Field(False, description="a name that exists stands for this corpus from now on")


class DatasetView(RowView):
    name: str
    path: str
    owner: str
    content_hash: str | None
    statistics: dict[str, Any] | None
    created_at: datetime


class DatasetVersionView(RowView):
    version: int
    path: str
    content_hash: str
    statistics: dict[str, Any] | None
    owner: str
    run_id: str | None
    created_at: datetime


class DocumentPage(BaseModel):
    items: list[dict[str, Any]]
    total: int
    offset: int
    splits: list[str] = Field([], description="that a filter can ask for")
    sources: list[str] = Field([], description="the same")
    tokens_of: dict[str, Any] | None = Field(
        None, description="what counted the tokens: its name, tokens of an image, and of a row of the model"
    )


class EncoderView(RowView):
    id: str
    name: str
    hash: str = Field(description="sha256 of the weights")
    identity: str | None = Field(description="sha256 over all files; null: not hashed yet")
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
        False, description="also if an encoder of the same owner has these weights and other files"
    )


class EncoderComparisonView(BaseModel):
    left: EncoderView
    right: EncoderView
    rows: list[dict[str, Any]]
