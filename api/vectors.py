"""From the items of a request to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from api.errors import Problem
from api.media import Input, TextPart, check_count, check_text, image_of, read_image
from api.settings import ApiSettings

if TYPE_CHECKING:
    from lcl_core.serving.batching_session import BatchingSession


def embed(encoder: BatchingSession, items: Sequence[Input], settings: ApiSettings) -> tuple[list[Any], int]:
    """One f32 [E] an item, in order, and the tokens that the model read.

    Raises: Problem 422 naming the item that is at fault, before anything is computed.
    """
    check_count(items, settings, "input")
    images: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for place, item in enumerate(items):
        field = f"input.{place}"
        url = image_of(item)
        if url is not None:
            images[place] = read_image(url, settings, field)
        else:
            texts[place] = check_text(item.text if isinstance(item, TextPart) else str(item), settings, field)
    vectors: dict[int, Any] = {}
    if texts:
        vectors.update(zip(texts, encoder.embed_texts(list(texts.values())), strict=True))
    if images:
        vectors.update(zip(images, encoder.embed_images(list(images.values())), strict=True))
    tokens = sum(encoder.count_tokens(list(texts.values()))) + len(images) * encoder.image_tokens
    return [vectors[place] for place in range(len(items))], tokens


def embed_query(encoder: BatchingSession, text: str | None, image: str | None, settings: ApiSettings) -> Any:
    """f32 [E] of the one text or picture of a search. Raises: Problem 422."""
    if image is not None:
        return encoder.embed_images([read_image(image, settings, "image")])[0]
    if text is None:
        raise Problem(422, "bad_query", "give text, image or vector", field="text")
    return encoder.embed_texts([check_text(text, settings, "text")])[0]
