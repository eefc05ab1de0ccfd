"""Saved views: named addresses of the page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from api.schemas.base import Line, RequestModel, RowView, request_example


def _no_secret(address: str) -> str:
    if "token" in dict(parse_qsl(address[1:], keep_blank_values=True)):
        raise ValueError("it has the token that opens the page; save the address without it")
    return address


# a query string as browsers write it, so that a link made of it never leads to another site
PageAddress = Annotated[
    str, StringConstraints(max_length=2000, pattern=r"^\?[\x21-\x7e]*$"), AfterValidator(_no_secret)
]


class SavedViewRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra=request_example(name="red drawings", address="?collection=sample-drawings&q=red")
    )

    name: Line = Field(description="what all who use the service see it as")
    address: PageAddress = Field(description="query string of the page's address, with its question mark")
    replace: bool = Field(False, description="a view of this name gets the address; for its owner and admins")


class SavedViewView(RowView):
    id: str = Field(description="names the view in calls")
    name: str = Field(description="what it is called")
    address: str = Field(description="query string of the page's address, with its question mark")
    owner: str = Field(description="who saved it")
    created_at: datetime = Field(description="when it was saved, or last replaced")
