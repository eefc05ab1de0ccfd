"""Images of one request: data URLs, decoded within bounds of bytes and pixels. Imports Pillow and torch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import TypeVar

from PIL.Image import Image

from api.core.errors import Problem
from api.core.models import IMAGE_URL_START
from lcl_core.common.device import release_freed_memory
from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import decode_image
from lcl_core.serving.batched_engine import within_memory

MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS = 16 << 20, 40_000_000  # of one encoded image
MAX_REQUEST_PIXELS = 200_000_000  # of all images of a request together
MANY_PIXELS = 8_000_000  # of a request, whose freed memory is returned to the system
Result = TypeVar("Result")


def decode_images(urls: Mapping[str, str], use: Callable[[bytes, Image], Result]) -> dict[str, Result]:
    """``use`` of each image, decoded one after another. Raises: as ``api.services.encoders.read_images``."""
    return within_memory(lambda: _decode(urls, use))


def _decode(urls: Mapping[str, str], use: Callable[[bytes, Image], Result]) -> dict[str, Result]:
    results, pixels = {}, 0
    for field, url in urls.items():
        raw = _image_file(url, field)
        try:
            image = decode_image(raw, field, max_pixels=MAX_IMAGE_PIXELS)
        except UserError as error:
            raise Problem(422, error.code, f"{field}: {error.message}", field=field) from error
        pixels += image.width * image.height
        if pixels > MAX_REQUEST_PIXELS:
            message = (
                f"{field}: the images up to this one have {pixels:,} pixels together, and those of one request "
                f"may have {MAX_REQUEST_PIXELS:,}; send several requests"
            )
            raise Problem(422, "too_many_items", message, field=field)
        results[field] = use(raw, image)
        del raw, image  # before the next one is decoded
    if pixels > MANY_PIXELS:
        release_freed_memory()
    return results


def _image_file(url: str, field: str) -> bytes:
    """Raises: Problem 422 naming the field."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith(IMAGE_URL_START) or not head.endswith(";base64"):
        message = f"{field}: send the image itself as `data:image/png;base64,…`; addresses are not fetched"
        raise Problem(422, "invalid_value", message, field=field)
    if len(body) > MAX_IMAGE_BYTES * 4 // 3 + 4:
        message = f"{field}: the image is larger than {MAX_IMAGE_BYTES:,} bytes"
        raise Problem(422, "too_large", message, field=field)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid_value", f"{field}: what follows the comma is not base64", field=field) from error
