"""Texts and images in a request, bounded before anything is decoded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from api.errors import Problem
from api.settings import ApiSettings
from lcl_core.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.data.image_headers import Declared

# The constraint also refuses lone surrogates, which no tokenizer takes.
Content = Annotated[str, StringConstraints(min_length=1, max_length=100_000_000)]
IMAGE_URL = "data:image/"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(_Part):
    url: Content


class ImagePart(_Part):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Part):
    type: Literal["text"]
    text: Content


Input = Content | ImagePart | TextPart


def image_of(item: Input) -> str | None:
    """The data URL of a picture, or None for a text. A string is a picture when it is a data URL of one."""
    if isinstance(item, ImagePart):
        return item.image_url.url
    return item if isinstance(item, str) and item.startswith(IMAGE_URL) else None


def check_count(items: Sequence[object], settings: ApiSettings, field: str) -> None:
    """Raises: Problem 422 for none, or more than one request may hold."""
    if not 1 <= len(items) <= settings.max_inputs:
        raise Problem(
            422, "bad_count", f"{field}: send 1 to {settings.max_inputs} items at once (got {len(items)})", field=field
        )


def check_text(text: str, settings: ApiSettings, field: str) -> str:
    """Raises: Problem 422."""
    if len(text) > settings.max_text_characters:
        message = f"{field}: the text is longer than {settings.max_text_characters} characters"
        raise Problem(422, "text_too_long", message, field=field)
    return text


def decoded(data: bytes, settings: ApiSettings, field: str) -> Image:
    """The picture of a file's bytes as RGB. Raises: Problem 422 naming the item."""
    from lcl_core.data.images import decode_image

    with _named(field):
        return decode_image(data, field, max_pixels=settings.max_image_pixels)


def header_of(data: bytes, settings: ApiSettings, field: str) -> Declared:
    """Size of the image and the memory that decoding it takes. Raises: Problem 422 naming the item."""
    from lcl_core.data.images import image_header

    with _named(field):
        return image_header(data, field, max_pixels=settings.max_image_pixels)


@contextmanager
def _named(field: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise Problem(422, error.code, f"{field}: {error.message}", field=field) from error


def bytes_of(url: str, settings: ApiSettings, field: str) -> bytes:
    """The bytes of a data URL, within bounds. Raises: Problem 422 naming the item."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith(IMAGE_URL) or not head.endswith(";base64"):
        message = f"{field}: send the picture itself as `data:image/png;base64,…`; addresses are not fetched"
        raise Problem(422, "bad_image_url", message, field=field)
    if len(body) > settings.max_image_bytes * 4 // 3 + 4:
        message = f"{field}: the picture is larger than {settings.max_image_bytes:,} bytes"
        raise Problem(422, "image_too_large", message, field=field)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "bad_image_url", f"{field}: what follows the comma is not base64", field=field) from error
