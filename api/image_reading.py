"""The images of a request, one after the other: decoded, prepared for the encoder, dropped.

First all headers are read: what they declare together must fit the request, and the largest image the process. Then a
request of small images goes on in the same thread; one with a large image lets go of the thread and waits for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

from api.context import Context
from api.errors import Problem
from api.media import bytes_of, decoded, header_of
from api.settings import ApiSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from lcl_core.serving.batching_session import BatchingSession

SMALL_BYTES = 8 << 20  # of memory while it is decoded: two million pixels of an ordinary PNG or JPEG
KEPT_BYTES = 8 << 20  # of a request's image files between the look at their headers and decoding
Begun = TypeVar("Begun")
Read = TypeVar("Read")


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
        return bytes_of(self._urls[field], self._settings, field) if kept is None else kept

    def read(self, field: str) -> Image:
        """An image as RGB. Raises: Problem 422 naming the field."""
        return decoded(self.raw(field), self._settings, field)

    def memory_needed(self, encoder: BatchingSession) -> int:
        """Bytes that decoding and preparing the largest of them takes; only headers are read.

        Raises: Problem 422 naming the image at which it is too much.
        """
        settings = self._settings
        pixels = most = kept = 0
        for field, url in self._urls.items():
            data = bytes_of(url, settings, field)
            header = header_of(data, settings, field)
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
            if kept + len(data) <= KEPT_BYTES:  # decoding base64 twice would cost as much as a small PNG's pixels
                kept += len(data)
                self._kept[field] = data
        return most


async def read_images(
    context: Context,
    owner: str,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchingSession, Begun]],
    read: Callable[[BatchingSession, Begun, RequestImages], Read],
) -> Read:
    """What ``read`` returns. Both functions are called in a thread, in this order.

    Args:
        urls: data URLs of all images that ``read`` is going to decode, by the field that they stand in.
        begin: opens the encoder and checks what does not need the images.
        read: decodes and prepares one image after the other.

    Raises: what they raise; Problem 422 naming the image that is too much, 503 ``overloaded``; UserError
        ``out_of_memory``.
    """

    def first() -> tuple[BatchingSession, Begun, int, Read | None]:
        encoder, begun = begin()
        need = images.memory_needed(encoder)
        return encoder, begun, need, _guarded(lambda: read(encoder, begun, images)) if need <= SMALL_BYTES else None

    images = RequestImages(urls, context.settings)

    encoder, begun, need, found = await to_thread.run_sync(first, limiter=context.inferring)
    if need <= SMALL_BYTES:
        return found  # type: ignore[return-value]  # None only where ``read`` returned it
    async with context.pixel_budget.hold(owner, need):
        return await to_thread.run_sync(_large, lambda: read(encoder, begun, images), limiter=context.decoding)


def _large(read: Callable[[], Read]) -> Read:
    from lcl_core.train.memory import give_back_freed_memory

    try:
        return _guarded(read)
    finally:
        give_back_freed_memory()


def _guarded(read: Callable[[], Read]) -> Read:
    from lcl_core.serving.out_of_memory import within_memory

    return within_memory(read)
