"""The bytes that a collection keeps of a picture, so that a gallery needs nothing else."""

from __future__ import annotations

import io
import math

from PIL import Image

MAX_COPIED_BYTES = 1_000_000
MAX_SIDE = 512  # pixels of a picture that is encoded again
# What every browser draws; anything else is encoded again as WebP.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


def gallery_bytes(raw: bytes, decoded: Image.Image, most: int = MAX_COPIED_BYTES) -> tuple[bytes, str]:
    """Bytes and media type to keep: ``raw`` itself when it is small and a browser draws it, else a WebP.

    Args:
        raw: the file as the corpus holds it, already known to decode.
        decoded: the same picture as RGB.
        most: bytes above which it is not small.
    """
    if len(raw) <= most:
        with Image.open(io.BytesIO(raw)) as header:  # reads the header only
            if header.format in MEDIA_TYPES:
                return raw, MEDIA_TYPES[header.format]
    size = _fitted(*decoded.size)
    # as Image.thumbnail does it, but without a copy of the whole first
    small = decoded.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if size != decoded.size else decoded
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return buffer.getvalue(), "image/webp"


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The same sides within MAX_SIDE, of the two that come into question the one nearer to the same ratio."""
    if max(width, height) <= MAX_SIDE:
        return width, height
    ratio = width / height
    if ratio >= 1:
        exact = MAX_SIDE / ratio
        sides = (math.floor(exact), math.ceil(exact))
        return MAX_SIDE, max(1, min(sides, key=lambda side: abs(ratio - MAX_SIDE / side) if side else 0))
    exact = MAX_SIDE * ratio
    return max(1, min((math.floor(exact), math.ceil(exact)), key=lambda side: abs(ratio - side / MAX_SIDE))), MAX_SIDE
