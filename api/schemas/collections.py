"""Collections: views, search, items, near-duplicates and maps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from api.schemas.base import PRINTABLE, Line, RequestModel, RowView
from api.schemas.inference import Content

ItemName = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)]
CaptionText = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, pattern=r"^[^\x00]+$")]
OptionalWord = Annotated[str, StringConstraints(max_length=100, pattern=PRINTABLE.replace("+$", "*$"))]
Weight = Annotated[float, Field(ge=-100, le=100)]
Target = Literal["images", "texts"]
RESERVED_LABELS = ("split", "source")  # a filter asks for these by the same names as for labels
QUERY_PARTS = ("text", "image", "vector", "item")


class CollectionView(RowView):
    id: str
    name: str
    encoder_id: str | None
    encoder_hash: str
    dataset: str | None
    owner: str
    run_id: str | None
    images: int
    texts: int = Field(description="distinct captions; in the list, those of the last index run")
    dim: int
    changes: int = Field(description="images added, replaced and removed one by one, ever")
    vectors: str | None = Field(
        description="where PostgreSQL searches: its tables VECTORS_images and VECTORS_texts; null: files are searched"
    )
    created_at: datetime


class CollectionDetail(CollectionView):
    labels: dict[str, list[str]] = Field(description="what a filter can ask for")


class QueryWeights(BaseModel):
    """How much each part counts; 1 where nothing is said. Less than 0: away from it."""

    model_config = ConfigDict(extra="forbid")

    text: Weight | None = None
    image: Weight | None = None
    vector: Weight | None = None
    item: Weight | None = None

    def as_dict(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class SearchQuery(BaseModel):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    model_config = ConfigDict(extra="forbid")

    text: Content | None = None
    image: Content | None = Field(None, description="an image as a data URL")
    vector: list[float] | None = Field(None, max_length=16_384)
    item: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        None, description="id of an image or text of the collection"
    )
    weights: QueryWeights = QueryWeights()

    @model_validator(mode="after")
    def _some_part(self) -> Self:
        if all(getattr(self, name) is None for name in QUERY_PARTS):
            raise ValueError("give at least one of text, image, vector and item")
        return self

    @property
    def needs_encoder(self) -> bool:
        """Whether an encoder is needed to answer it."""
        return self.text is not None or self.image is not None


class SearchRequest(SearchQuery):
    """At least one of text, image, vector and item; of several the weighted sum of their directions."""

    target: Target = "images"
    k: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=9000, description="hits to leave out: those of the pages before")
    where: dict[Line, Line | list[Line]] = Field({}, max_length=32, description="{label: value or values}")


class SearchResponse(BaseModel):
    hits: list[dict[str, Any]] = Field(description="best first: id, score (cosine), and the item or text")
    took_ms: float


class NewItemRequest(RequestModel):
    image: Content = Field(description="the image as a data URL")
    name: ItemName | None = Field(
        None, description="unique in the collection, the id is made of it; none: the SHA-256 of the image's bytes"
    )
    captions: list[CaptionText] = Field([], max_length=8)
    labels: dict[Line, Line] = Field({}, max_length=32)
    split: OptionalWord = ""
    source: OptionalWord = ""

    @field_validator("labels")
    @classmethod
    def _not_twice(cls, labels: dict[str, str]) -> dict[str, str]:
        if taken := next((name for name in RESERVED_LABELS if name in labels), None):
            raise ValueError(f"{taken} is no label: it has a field of its own")
        return labels


class AddItemsRequest(RequestModel):
    items: list[NewItemRequest] = Field(min_length=1, max_length=1000, description="kept all, or none")
    replace: bool = Field(False, description="an image takes the place of an older one of its name")


class AddedItemsView(BaseModel):
    ids: list[str] = Field(description="in the order of the items")
    images: int = Field(description="how many images the collection holds then")


class VectorPage(BaseModel):
    ids: list[str]
    vectors: list[list[float]]
    total: int
    offset: int


class MapPointView(BaseModel):
    id: str
    x: float
    y: float
    caption: str
    labels: dict[str, str]


class CollectionMap(BaseModel):
    points: list[MapPointView] = Field(description="two principal components, within [-1, 1]")
    total: int


class DuplicateGroupView(BaseModel):
    size: int = Field(description="images that it holds")
    items: list[dict[str, Any]] = Field(
        description="the first 100 of them, each with its score: the cosine to the first"
    )


class DuplicatePage(BaseModel):
    groups: list[DuplicateGroupView] = Field(description="the largest first")
    total: int = Field(description="groups in all")
    offset: int
    threshold: float
    took_ms: float
