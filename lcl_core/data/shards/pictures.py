"""A picture on its way into a shard: had, decoded to see that it can be, its bytes kept as they were."""

from __future__ import annotations

import io

from PIL import Image

from lcl_core.data.images import FORMATS, MAX_IMAGE_BYTES, decode_image
from lcl_core.data.record import Picture
from lcl_core.errors import UserError

_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif",
}  # fmt: skip
_QUALITY = 92


def packed_picture(picture: Picture, max_side: int | None) -> tuple[bytes, str]:
    """(the file's bytes, its extension); made smaller only where a side exceeds ``max_side``.

    Raises: UserError for a picture that cannot be had or decoded, or has too many bytes.
    """
    data = picture.load()
    if len(data) > MAX_IMAGE_BYTES:
        message = f"the file is larger than {MAX_IMAGE_BYTES:,} bytes"
        raise UserError(message, code="file_too_large", file=picture.name)
    image = decode_image(data, picture.name)
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        kind = opened.format or ""
    if max_side is None or max(image.size) <= max_side:
        return data, _EXTENSIONS[kind]
    return _smaller(image, max_side, lossless=kind in ("PNG", "BMP", "PPM"))


def _smaller(image: Image.Image, max_side: int, lossless: bool) -> tuple[bytes, str]:
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    if lossless:
        image.save(packed, "PNG")
        return packed.getvalue(), "png"
    image.save(packed, "JPEG", quality=_QUALITY)
    return packed.getvalue(), "jpg"
