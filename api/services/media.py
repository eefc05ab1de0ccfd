"""Texts and images of a request, bounded before anything is decoded.

The headers of all images are read first: what they declare together must fit the request, and the largest image the
process. A request of small images is decoded in the same thread; one with a large image releases the thread and waits
for memory. Images are decoded, prepared for the encoder and dropped one by one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, StringConstraints

from api.core.errors import Problem
from api.core.settings import ApiSettings
from api.core.state import AppState
from lcl_core.common.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.data.image_decoding import ImageHeader
    from lcl_core.serving.batched_engine import BatchedEngine


# The constraint also refuses lone surrogates, which no tokenizer takes.
Content = Annotated[str, StringConstraints(min_length=1, max_length=100_000_000)]
IMAGE_URL_START = "data:image/"


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


EmbeddingInput = Content | ImagePart | TextPart


def image_url_of(item: EmbeddingInput) -> str | None:
    """The data URL of a picture, or None for a text. A string is a picture when it is a data URL of one."""
    if isinstance(item, ImagePart):
        return item.image_url.url
    return item if isinstance(item, str) and item.startswith(IMAGE_URL_START) else None


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


def decode_upload(data: bytes, settings: ApiSettings, field: str) -> Image:
    """The picture of a file's bytes as RGB. Raises: Problem 422 naming the item."""
    from lcl_core.data.image_decoding import decode_image

    with _naming_field(field):
        return decode_image(data, field, max_pixels=settings.max_image_pixels)


def read_image_header(data: bytes, settings: ApiSettings, field: str) -> ImageHeader:
    """Size of the image and the memory that decoding it takes. Raises: Problem 422 naming the item."""
    from lcl_core.data.image_decoding import read_image_header

    with _naming_field(field):
        return read_image_header(data, field, max_pixels=settings.max_image_pixels)


@contextmanager
def _naming_field(field: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise Problem(422, error.code, f"{field}: {error.message}", field=field) from error


def decode_data_url(url: str, settings: ApiSettings, field: str) -> bytes:
    """The bytes of a data URL, within bounds. Raises: Problem 422 naming the item."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith(IMAGE_URL_START) or not head.endswith(";base64"):
        message = f"{field}: send the picture itself as `data:image/png;base64,…`; addresses are not fetched"
        raise Problem(422, "bad_image_url", message, field=field)
    if len(body) > settings.max_image_bytes * 4 // 3 + 4:
        message = f"{field}: the picture is larger than {settings.max_image_bytes:,} bytes"
        raise Problem(422, "image_too_large", message, field=field)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "bad_image_url", f"{field}: what follows the comma is not base64", field=field) from error


SMALL_IMAGE_BYTES = 8 << 20  # of memory while it is decoded: two million pixels of an ordinary PNG or JPEG
MAX_CACHED_BYTES = 8 << 20  # of a request's image files between the look at their headers and decoding
Opened = TypeVar("Opened")
Result = TypeVar("Result")


class RequestImages:
    """The images of one request by the field that they stand in. Each is read once.

    Args:
        urls: their data URLs.
    """

    def __init__(self, urls: Mapping[str, str], settings: ApiSettings) -> None:
        self._urls, self._settings = urls, settings
        self._kept: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._urls)

    def __contains__(self, field: str) -> bool:
        return field in self._urls

    def raw(self, field: str) -> bytes:
        """The file of an image. Raises: Problem 422 naming the field."""
        kept = self._kept.pop(field, None)
        return decode_data_url(self._urls[field], self._settings, field) if kept is None else kept

    def read(self, field: str) -> Image:
        """An image as RGB. Raises: Problem 422 naming the field."""
        return decode_upload(self.raw(field), self._settings, field)

    def memory_needed(self, encoder: BatchedEngine) -> int:
        """Bytes that decoding and preparing the largest of them takes; only headers are read.

        Raises: Problem 422 naming the image at which it is too much.
        """
        settings = self._settings
        pixels = most = kept = 0
        for field, url in self._urls.items():
            data = decode_data_url(url, settings, field)
            header = read_image_header(data, settings, field)
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
            most = max(most, need)
            if kept + len(data) <= MAX_CACHED_BYTES:  # decoding base64 twice would cost as much as a small PNG's pixels
                kept += len(data)
                self._kept[field] = data
        return most


async def read_images(
    context: AppState,
    owner: str,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchedEngine, Opened]],
    read: Callable[[BatchedEngine, Opened, RequestImages], Result],
) -> Result:
    """What ``read`` returns. Both functions are called in a thread, in this order.

    Args:
        urls: data URLs of all images that ``read`` is going to decode, by the field that they stand in.
        begin: opens the encoder and checks what does not need the images.
        read: decodes and prepares one image after the other.

    Raises: what they raise; Problem 422 naming the image that is too much, 503 ``overloaded``; UserError
        ``out_of_memory``.
    """

    def first() -> tuple[BatchedEngine, Opened, int, Result | None]:
        encoder, begun = begin()
        need = images.memory_needed(encoder)
        return (
            encoder,
            begun,
            need,
            _within_memory(lambda: read(encoder, begun, images)) if need <= SMALL_IMAGE_BYTES else None,
        )

    images = RequestImages(urls, context.settings)

    encoder, begun, need, found = await to_thread.run_sync(first, limiter=context.inferring)
    if need <= SMALL_IMAGE_BYTES:
        return found  # type: ignore[return-value]  # None only where ``read`` returned it
    async with context.pixel_budget.reserve(owner, need):
        return await to_thread.run_sync(_read_large, lambda: read(encoder, begun, images), limiter=context.decoding)


def _read_large(read: Callable[[], Result]) -> Result:
    from lcl_core.common.device import release_freed_memory

    try:
        return _within_memory(read)
    finally:
        release_freed_memory()


def _within_memory(read: Callable[[], Result]) -> Result:
    from lcl_core.serving.batched_engine import within_memory

    return within_memory(read)
