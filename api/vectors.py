"""From the items of a request to vectors: read in one of few threads, awaited while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from api.image_reading import RequestImages
from api.media import Input, TextPart, check_text, image_of
from api.settings import ApiSettings

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession


def image_urls(items: Sequence[Input]) -> dict[str, str]:
    """Data URLs of the images among the items, by their field."""
    found = ((f"input.{place}", image_of(item)) for place, item in enumerate(items))
    return {field: url for field, url in found if url is not None}


def submit(
    encoder: BatchingSession, items: Sequence[Input], read: RequestImages, settings: ApiSettings
) -> tuple[list[Future[Any]], int]:
    """Read the items and queue them: a future f32 [E] of each, in order, and the tokens that the model reads.

    Args:
        read: the images among the items.

    Raises: Problem 422 naming the item that is at fault, before anything is queued.
    """
    images: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for place, item in enumerate(items):
        field = f"input.{place}"
        if field in read:
            images[place] = encoder.prepare(read.read(field))
        else:
            texts[place] = check_text(item.text if isinstance(item, TextPart) else str(item), settings, field)
    tokens = sum(encoder.count_tokens(list(texts.values()))) + len(images) * encoder.image_tokens
    futures: dict[int, Future[Any]] = {}
    if texts:
        futures.update(zip(texts, encoder.submit_texts(list(texts.values())), strict=True))
    if images:
        futures.update(zip(images, encoder.submit_images(list(images.values())), strict=True))
    return [futures[place] for place in range(len(items))], tokens
