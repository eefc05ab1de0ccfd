"""Images of one request: data URLs and decoding, bounded in bytes and pixels. Imports Pillow and torch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from PIL.Image import Image

from api.core import limits
from api.core.errors import Problem
from api.core.models import IMAGE_URL_START
from lcl_core.common.device import release_freed_memory
from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import decode_image
from lcl_core.serving.batched_engine import within_memory

MANY_PIXELS = 8_000_000  # of a request, whose freed memory is returned to the system
Result = TypeVar("Result")


class RequestImages:
    """Images by their field in the request, from data URLs, decoded one after another."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls
        self._pixels = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._urls)

    def __contains__(self, field: str) -> bool:
        return field in self._urls

    def raw(self, field: str) -> bytes:
        """An image file. Raises: Problem 422 naming the field."""
        head, comma, body = self._urls[field].partition(",")
        if not comma or not head.startswith(IMAGE_URL_START) or not head.endswith(";base64"):
            message = f"{field}: send the image itself as `data:image/png;base64,…`; addresses are not fetched"
            raise Problem(422, "invalid_value", message, field=field)
        if len(body) > limits.MAX_IMAGE_BYTES * 4 // 3 + 4:
            message = f"{field}: the image is larger than {limits.MAX_IMAGE_BYTES:,} bytes"
            raise Problem(422, "too_large", message, field=field)
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Problem(
                422, "invalid_value", f"{field}: what follows the comma is not base64", field=field
            ) from error

    def decode(self, raw: bytes, field: str) -> Image:
        """An image file as RGB. Raises: Problem 422 naming the field."""
        try:
            image = decode_image(raw, field, max_pixels=limits.MAX_IMAGE_PIXELS)
        except UserError as error:
            raise Problem(422, error.code, f"{field}: {error.message}", field=field) from error
        self._pixels += image.width * image.height
        if self._pixels > limits.MAX_REQUEST_PIXELS:
            message = (
                f"{field}: the images up to this one have {self._pixels:,} pixels together, and those of one request "
                f"may have {limits.MAX_REQUEST_PIXELS:,}; send several requests"
            )
            raise Problem(422, "too_many_items", message, field=field)
        return image

    def read(self, field: str) -> Image:
        """An image as RGB. Raises: Problem 422 naming the field."""
        return self.decode(self.raw(field), field)

    def call(self, read: Callable[[], Result]) -> Result:
        """``read()`` with errors of memory as UserError."""
        try:
            return within_memory(read)
        finally:
            if self._pixels > MANY_PIXELS:
                release_freed_memory()
