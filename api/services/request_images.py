"""Images of one request: data URLs, headers, the memory that they take, decoding. Imports Pillow and torch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from PIL.Image import Image

from api.core.errors import Problem
from api.core.settings import ApiSettings
from api.schemas.inference import IMAGE_URL_START
from lcl_core.common.device import release_freed_memory
from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import decode_image, read_image_header
from lcl_core.serving.batched_engine import BatchedEngine, within_memory

MAX_CACHED_BYTES = 8 << 20  # of a request's image files, between the check of their headers and decoding
Result = TypeVar("Result")


class MemoryNeed(NamedTuple):
    """Bytes of memory that the images of a request take."""

    decoding: int  # to decode and prepare the largest one
    prepared: int  # of all prepared ones, until the model has read them


class RequestImages:
    """Images by their field in the request. Each is read once.

    Args:
        urls: their data URLs.
    """

    def __init__(self, urls: Mapping[str, str], settings: ApiSettings) -> None:
        self._urls, self._settings = urls, settings
        self._cached: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._urls)

    def __contains__(self, field: str) -> bool:
        return field in self._urls

    def raw(self, field: str) -> bytes:
        """An image file. Raises: Problem 422 naming the field."""
        cached = self._cached.pop(field, None)
        return decode_data_url(self._urls[field], self._settings, field) if cached is None else cached

    def decode(self, raw: bytes, field: str) -> Image:
        """An image file as RGB. Raises: Problem 422 naming the field."""
        with _naming_field(field):
            return decode_image(raw, field, max_pixels=self._settings.max_image_pixels)

    def read(self, field: str) -> Image:
        """An image as RGB. Raises: Problem 422 naming the field."""
        return self.decode(self.raw(field), field)

    def call(self, read: Callable[[], Result], *, release: bool) -> Result:
        """``read()`` with errors of memory as UserError. ``release``: return freed memory to the system afterwards."""
        try:
            return within_memory(read)
        finally:
            if release:
                release_freed_memory()

    def memory_needed(self, encoder: BatchedEngine) -> MemoryNeed:
        """The memory for decoding the images one after another and keeping what is prepared; only headers are read.

        Raises: Problem 422 naming the image that exceeds a limit.
        """
        settings = self._settings
        pixels = largest = cached = prepared = 0
        for field, url in self._urls.items():
            data = decode_data_url(url, settings, field)
            with _naming_field(field):
                header = read_image_header(data, field, max_pixels=settings.max_image_pixels)
            pixels += header.pixels
            if pixels > settings.max_request_pixels:
                message = (
                    f"{field}: the images up to this one have {pixels:,} pixels together, and those of one request "
                    f"may have {settings.max_request_pixels:,} (LCL_MAX_REQUEST_PIXELS); send several requests"
                )
                raise Problem(422, "too_many_pixels", message, field=field)
            need = header.bytes + header.pixels * encoder.preparing_bytes
            if need > settings.image_memory_bytes:
                message = (
                    f"{field}: decoding this image takes {need:,} bytes of memory, and one may take "
                    f"{settings.image_memory_bytes:,} (LCL_IMAGE_MEMORY_BYTES); make it smaller, or send a PNG or JPEG"
                )
                raise Problem(422, "image_too_large", message, field=field)
            largest, prepared = max(largest, need), prepared + encoder.prepared_bytes
            if largest + prepared > settings.image_memory_bytes:
                message = (
                    f"{field}: the images up to this one take {largest + prepared:,} bytes of memory as this encoder "
                    f"reads them, and those of one request may take {settings.image_memory_bytes:,} "
                    "(LCL_IMAGE_MEMORY_BYTES); send several requests"
                )
                raise Problem(422, "too_many_pixels", message, field=field)
            if cached + len(data) <= MAX_CACHED_BYTES:  # decoding base64 twice costs as much as a small PNG's pixels
                cached += len(data)
                self._cached[field] = data
        return MemoryNeed(largest, prepared)


@contextmanager
def _naming_field(field: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise Problem(422, error.code, f"{field}: {error.message}", field=field) from error


def decode_data_url(url: str, settings: ApiSettings, field: str) -> bytes:
    """Bytes of a data URL. Raises: Problem 422 naming the field."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith(IMAGE_URL_START) or not head.endswith(";base64"):
        message = f"{field}: send the image itself as `data:image/png;base64,…`; addresses are not fetched"
        raise Problem(422, "bad_image_url", message, field=field)
    if len(body) > settings.max_image_bytes * 4 // 3 + 4:
        message = f"{field}: the image is larger than {settings.max_image_bytes:,} bytes"
        raise Problem(422, "image_too_large", message, field=field)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "bad_image_url", f"{field}: what follows the comma is not base64", field=field) from error
