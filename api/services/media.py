"""Bounds on texts and images of a request, and the order in which its images are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread

from api.core import limits
from api.core.errors import Problem
from api.services.state import AppState

if TYPE_CHECKING:
    from api.services.request_images import RequestImages
    from lcl_core.serving.batched_engine import BatchedEngine

Opened = TypeVar("Opened")
Result = TypeVar("Result")
Submitted = tuple[list[Future[Any]], Result]  # the items' results to come, and whatever else the caller needs


def check_count(items: Sequence[object], field: str) -> None:
    """Raises: Problem 422 for no items, or more than a request may hold."""
    if not 1 <= len(items) <= limits.MAX_INPUTS:
        message = f"{field}: send 1 to {limits.MAX_INPUTS} items at once (got {len(items)})"
        raise Problem(422, "bad_count", message, field=field)


def check_text(text: str, field: str) -> str:
    """Raises: Problem 422."""
    if len(text) > limits.MAX_TEXT_CHARACTERS:
        message = f"{field}: the text is longer than {limits.MAX_TEXT_CHARACTERS} characters"
        raise Problem(422, "bad_request", message, field=field)
    return text


async def read_images(
    state: AppState,
    urls: Mapping[str, str],
    begin: Callable[[], tuple[BatchedEngine, Opened]],
    read: Callable[[BatchedEngine, Opened, RequestImages], Submitted[Result]],
) -> Submitted[Result]:
    """Call ``begin``, then ``read``; the latter in one of few threads, which bound the images decoded at one time.

    Args:
        urls: data URLs of the images by their field in the request.
        begin: opens the encoder, which may have to be loaded, and checks the request as far as no image is needed.
        read: decodes and prepares one image after another, and submits them.

    Raises: their errors; Problem 422 naming an image that is too large, or one too many; UserError ``out_of_memory``.
    """
    encoder, opened = await to_thread.run_sync(begin, limiter=state.opening)

    def submit() -> Submitted[Result]:
        from api.services.request_images import RequestImages  # Pillow and torch, which ``begin`` has imported

        images = RequestImages(urls)
        return images.call(lambda: read(encoder, opened, images))

    return await to_thread.run_sync(submit, limiter=state.inferring)
