"""Bounds on texts and images of a request, and the order in which its images are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

from api.core.errors import Problem
from api.core.settings import ApiSettings
from api.services.state import AppState

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.serving.batched_engine import BatchedEngine

SMALL_IMAGE_BYTES = 8 << 20  # of decoding memory: two million pixels of an ordinary PNG or JPEG
Opened = TypeVar("Opened")
Result = TypeVar("Result")


def check_count(items: Sequence[object], settings: ApiSettings, field: str) -> None:
    """Raises: Problem 422 for no items, or more than a request may hold."""
    if not 1 <= len(items) <= settings.max_inputs:
        message = f"{field}: send 1 to {settings.max_inputs} items at once (got {len(items)})"
        raise Problem(422, "bad_count", message, field=field)


def check_text(text: str, settings: ApiSettings, field: str) -> str:
    """Raises: Problem 422."""
    if len(text) > settings.max_text_characters:
        message = f"{field}: the text is longer than {settings.max_text_characters} characters"
        raise Problem(422, "text_too_long", message, field=field)
    return text


async def read_images(
    state: AppState,
    owner: str,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchedEngine, Opened]],
    read: Callable[[BatchedEngine, Opened, RequestImages], Result],
) -> Result:
    """Call ``begin``, check the headers of all images, and return what ``read`` returns. Both run in threads.

    Small images are decoded in the same thread. A request with a large image releases the thread and waits for
    decoding memory.

    Args:
        urls: data URLs of the images by their field in the request.
        begin: opens the encoder and checks the request as far as no image is needed.
        read: decodes and prepares one image after another.

    Raises: their errors; Problem 422 naming an image that is too large, 503 ``overloaded``; UserError
        ``out_of_memory``.
    """

    def first() -> tuple[Callable[[], Result], int, Result | None]:
        encoder, opened = begin()
        from api.services.request_images import RequestImages  # Pillow and torch, which ``begin`` has imported

        images = RequestImages(urls, state.settings)
        need = images.memory_needed(encoder)

        def decode() -> Result:
            return images.call(lambda: read(encoder, opened, images), release=need > SMALL_IMAGE_BYTES)

        return decode, need, decode() if need <= SMALL_IMAGE_BYTES else None

    decode, need, result = await to_thread.run_sync(first, limiter=state.inferring)
    if need <= SMALL_IMAGE_BYTES:
        return result  # type: ignore[return-value]  # None only where ``read`` returned it
    async with state.pixel_budget.reserve(owner, need):
        return await to_thread.run_sync(decode, limiter=state.decoding)
