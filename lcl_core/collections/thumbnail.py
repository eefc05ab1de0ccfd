"""Images as a collection stores them: the file itself where a browser draws it, else a small copy."""

from __future__ import annotations

import io

from PIL import Image

MAX_COPIED_BYTES = 1_000_000
MAX_SIDE = 512  # pixels of an image that is encoded again
# formats that every browser draws; others are encoded again as WebP
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}


def thumbnail(raw: bytes, decoded: Image.Image, most: int = MAX_COPIED_BYTES) -> tuple[bytes, str]:
    """Bytes and media type to store: ``raw`` itself when it is small and a browser draws it, else a WebP.

    Args:
        raw: the file as the corpus holds it, already known to decode.
        decoded: the same image as RGB.
        most: bytes up to which it is small.
    """
    if len(raw) <= most:
        with Image.open(io.BytesIO(raw)) as header:  # reads the header only
            if header.format in MEDIA_TYPES:
                return raw, MEDIA_TYPES[header.format]
    small, scale = decoded, MAX_SIDE / max(decoded.size)
    if scale < 1:  # as Image.thumbnail, without its copy of the whole image
        width, height = (max(1, round(side * scale)) for side in decoded.size)
        small = decoded.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return buffer.getvalue(), "image/webp"
