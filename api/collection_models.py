"""What goes over the wire to change a collection."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, field_validator

from api.media import Content
from api.models import PRINTED, Body, Line

ItemName = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=PRINTED)]
Caption = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000, pattern=r"^[^\x00]+$")]
Word = Annotated[str, StringConstraints(max_length=100, pattern=PRINTED.replace("+$", "*$"))]
OWN_FIELDS = ("split", "source")  # a filter asks for these by the same names as for labels


class NewPicture(Body):
    image: Content = Field(description="the picture as a data URL")
    name: ItemName | None = Field(
        None, description="unique in the collection, the id is made of it; none: the SHA-256 of the picture's bytes"
    )
    captions: list[Caption] = Field([], max_length=8)
    labels: dict[Line, Line] = Field({}, max_length=32)
    split: Word = ""
    source: Word = ""

    @field_validator("labels")
    @classmethod
    def _not_twice(cls, labels: dict[str, str]) -> dict[str, str]:
        if taken := next((name for name in OWN_FIELDS if name in labels), None):
            raise ValueError(f"{taken} is no label: it has a field of its own")
        return labels


class Additions(Body):
    items: list[NewPicture] = Field(min_length=1, max_length=1000, description="kept all, or none")
    replace: bool = Field(False, description="a picture takes the place of an older one of its name")


class Added(BaseModel):
    ids: list[str] = Field(description="in the order of the items")
    images: int = Field(description="how many pictures the collection holds then")
