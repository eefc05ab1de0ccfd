"""What goes over the wire to change a collection."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, field_validator

from api.schemas.base import PRINTABLE, Line, RequestModel
from api.services.media import Content

ItemName = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTABLE)]
CaptionText = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, pattern=r"^[^\x00]+$")]
OptionalWord = Annotated[str, StringConstraints(max_length=100, pattern=PRINTABLE.replace("+$", "*$"))]
RESERVED_LABELS = ("split", "source")  # a filter asks for these by the same names as for labels


class NewItemRequest(RequestModel):
    image: Content = Field(description="the picture as a data URL")
    name: ItemName | None = Field(
        None, description="unique in the collection, the id is made of it; none: the SHA-256 of the picture's bytes"
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
    replace: bool = Field(False, description="a picture takes the place of an older one of its name")


class AddedItemsView(BaseModel):
    ids: list[str] = Field(description="in the order of the items")
    images: int = Field(description="how many pictures the collection holds then")
