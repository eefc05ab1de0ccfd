"""Types and base classes of request and response models, which stand beside the code that uses them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    create_model,
    field_validator,
)
from pydantic.config import JsonDict

from lcl_core.db.models import Base
from lcl_core.specs.base import PRINTABLE, check_texts

ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")
Line = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=PRINTABLE)]
PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=PRINTABLE)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Role = Literal["viewer", "submitter", "admin"]
# The constraint also refuses lone surrogates, which no tokenizer accepts.
Content = Annotated[str, StringConstraints(min_length=1, max_length=100_000_000)]
IMAGE_URL_START = "data:image/"
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mM8ISfHQApgYiARjGoY1TB0NAAATx8BJMixHB8"
    "AAAAASUVORK5CYII="
)


def _check_iso_date(value: object) -> object:
    """Pydantic would read numbers, and numeric strings, as seconds since 1970."""
    if isinstance(value, str) and ISO_DATE.match(value):
        return value
    raise ValueError("write a date and a time, such as 2030-01-01T00:00:00Z")


Timestamp = Annotated[datetime, Strict(False), BeforeValidator(_check_iso_date)]


def request_example(**fields: Any) -> JsonDict:
    """``json_schema_extra`` of a request model: a body that the service accepts once the objects in it exist."""
    return {"examples": [fields]}


class RequestModel(BaseModel):
    """A request body. Unknown fields are errors, and no type is converted: neither "yes" or 1 to true nor "1" to 1.

    Texts that a database cannot store are errors as well; those inside of a spec are errors of the spec.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _texts_can_be_stored(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else check_texts(value)


class RowView(BaseModel):
    """A database row as a response."""

    model_config = ConfigDict(from_attributes=True)


def row_view(table: type[Base], columns: str, base: type[RowView] = RowView) -> Any:
    """The model of a table's rows as a response: these columns with their types, and the fields of ``base``.

    A route names it as its ``response_model`` and returns the row.
    """
    hints = get_type_hints(table)
    fields: Any = {name: (get_args(hints[name])[0], ...) for name in columns.split()}
    name = f"{table.__name__.removesuffix('Row')}View" if base is RowView else base.__name__
    return create_model(name, __base__=base, **fields)


Item = TypeVar("Item")


class ListOf(BaseModel, Generic[Item]):
    items: list[Item] = Field(description="all of them")


class PageOf(ListOf[Item], Generic[Item]):
    items: list[Item] = Field(description="of this page")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last one")


def list_of(view: Any) -> Any:
    """The model of all rows, of a view that ``row_view`` has made."""
    return ListOf[view]


def page_of(view: Any) -> Any:
    return PageOf[view]


class ItemList(BaseModel):
    items: list[dict[str, Any]] = Field(description="all of them")
