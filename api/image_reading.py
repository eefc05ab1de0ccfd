"""The images of a request, one after the other: decoded, prepared for the encoder, dropped.

First all headers are read: what they declare together must fit the request, and the largest image the process. Then a
request of small images goes on in the same thread; one with a large image lets go of the thread and waits for memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

from api.context import Context
from api.errors import Problem
from api.media import bytes_of, header_of
from api.settings import ApiSettings

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession

SMALL_BYTES = 8 << 20  # of memory while it is decoded: two million pixels of an ordinary PNG or JPEG
Begun = TypeVar("Begun")
Read = TypeVar("Read")


async def read_images(
    context: Context,
    owner: str,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchingSession, Begun]],
    read: Callable[[BatchingSession, Begun], Read],
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
        need = memory_needed(urls, encoder, context.settings)
        return encoder, begun, need, _guarded(read, encoder, begun) if need <= SMALL_BYTES else None

    encoder, begun, need, found = await to_thread.run_sync(first, limiter=context.inferring)
    if need <= SMALL_BYTES:
        return found  # type: ignore[return-value]  # None only where ``read`` returned it
    async with context.pixel_budget.hold(owner, need):
        return await to_thread.run_sync(_large, read, encoder, begun, limiter=context.decoding)


def memory_needed(urls: Mapping[str, str], encoder: BatchingSession, settings: ApiSettings) -> int:
    """Bytes that decoding and preparing the largest of the images takes; only headers are read.

    Raises: Problem 422 naming the image at which it is too much.
    """
    pixels = most = 0
    for field, url in urls.items():
        header = header_of(bytes_of(url, settings, field), settings, field)
        pixels += header.pixels
        if pixels > settings.max_request_pixels:
            message = (
                f"{field}: the images up to this one have {pixels:,} pixels together, and those of one request may "
                f"have {settings.max_request_pixels:,} (LCL_MAX_REQUEST_PIXELS); send them in several requests"
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
    return most


def _large(read: Callable[[BatchingSession, Begun], Read], encoder: BatchingSession, begun: Begun) -> Read:
    from lcl_core.train.memory import give_back_freed_memory

    try:
        return _guarded(read, encoder, begun)
    finally:
        give_back_freed_memory()


def _guarded(read: Callable[[BatchingSession, Begun], Read], encoder: BatchingSession, begun: Begun) -> Read:
    from lcl_core.serving.out_of_memory import within_memory

    return within_memory(lambda: read(encoder, begun))
