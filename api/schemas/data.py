"""Datasets and encoders: registration, import, validation, versions, documents, comparison."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.schemas.base import PathText, RequestModel, RowView, request_example
from lcl_core.specs.base import Name, Tag


class DatasetRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="manuals", path="/srv/corpora/manuals"))

    name: Name = Field(description="name of the dataset")
    path: PathText = Field(description="folder or zip on the server, or a URL of shards, inside its data roots")
    new_version: bool = Field(False, description="a name that exists stands for this corpus from now on")


class UploadView(BaseModel):
    id: str = Field(description="id of the upload")
    bytes: int = Field(description="of its files, unpacked")
    files: int = Field(description="number of them")
    path: str = Field(description="folder of the corpus on the server")


class DatasetView(RowView):
    name: str = Field(description="its name")
    path: str = Field(description="folder, file or URL on the server")
    owner: str = Field(description="who registered it")
    content_hash: str | None = Field(description="SHA-256 over its content; null: not read yet")
    statistics: dict[str, Any] | None = Field(description="counts of documents, images, captions, splits and labels")
    created_at: datetime = Field(description="when it was registered")


class DatasetVersionView(RowView):
    version: int = Field(description="number, from 1")
    path: str = Field(description="folder, file or URL on the server")
    content_hash: str = Field(description="SHA-256 over its content")
    statistics: dict[str, Any] | None = Field(description="counts of documents, images, captions, splits and labels")
    owner: str = Field(description="who registered it")
    run_id: str | None = Field(description="the run that made it")
    created_at: datetime = Field(description="when it was registered")


class DatasetDetail(DatasetView):
    versions: list[DatasetVersionView] = Field(description="all of them, the newest first")
    tags: dict[str, int] = Field(description="number of documents and captioned images with each tag")


class DocumentPage(BaseModel):
    items: list[dict[str, Any]] = Field(
        description="documents with their segments: texts, and images with their URL; item names each for its tags"
    )
    rows: list[int] = Field([], description="number of each item, as offset counts")
    next: int | None = Field(None, description="offset to go on with; null: there is nothing more")
    total: int = Field(description="documents in all")
    offset: int = Field(description="that was asked for")
    splits: list[str] = Field([], description="that a filter can ask for")
    sources: list[str] = Field([], description="the same")


class ItemTagsRequest(RequestModel):
    """Tags that documents and captioned images of a dataset gain and lose."""

    model_config = ConfigDict(json_schema_extra=request_example(items=["interleaved.jsonl:12"], add=["blurred"]))

    items: list[Annotated[str, StringConstraints(min_length=1, max_length=300)]] = Field(
        min_length=1, max_length=256, description="item of each, as lists of documents have it; all change, or none"
    )
    add: list[Tag] = Field([], max_length=32, description="tags that they gain")
    remove: list[Tag] = Field([], max_length=32, description="tags that they lose")

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if not (self.add or self.remove):
            raise ValueError("give at least one of add and remove")
        if both := sorted(set(self.add) & set(self.remove)):
            raise ValueError(f"{both[0]} is to be added and removed; choose one")
        return self


class ChangedItemsView(BaseModel):
    changed: int = Field(description="items whose tags are others now")


class EncoderView(RowView):
    id: str = Field(description="id of the encoder")
    name: str = Field(description="its name; newer encoders may have the same one")
    hash: str = Field(description="sha256 of the weights")
    identity: str | None = Field(description="sha256 over all files; null: not hashed yet")
    owner: str = Field(description="who trained or imported it")
    run_id: str | None = Field(description="the run that made it; null: imported or bundled")
    info: dict[str, Any] = Field(description="architecture, sizes, and what it was trained on")
    pinned: bool = Field(False, description="whether forms and menus offer it first")
    created_at: datetime = Field(description="when it was registered")


class EncoderImportRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="clip-b32", path="/srv/encoders/clip-b32"))

    name: Name = Field(description="name of the encoder")
    path: PathText = Field(
        description="directory on the server, inside its data roots: of lcl, OpenCLIP, timm or Hugging Face"
    )


class EncoderChange(RequestModel):
    model_config = ConfigDict(json_schema_extra=request_example(name="drawings-best", pinned=True))

    name: Name | None = Field(None, description="new name, which no other encoder has; left out: it stays")
    pinned: bool | None = Field(None, description="whether forms and menus offer it first; left out: as before")


class EncoderComparisonView(BaseModel):
    left: EncoderView
    right: EncoderView
    rows: list[dict[str, Any]] = Field(
        description="one per metric of both: task, split, metric, left, right, difference or the reason for none"
    )
