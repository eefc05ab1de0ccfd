from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lcl_core.data.image_decoding import MAX_COPIED_BYTES, MAX_SIDE, thumbnail


def encoded(image, kind):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "GIF"])
def test_a_small_image_is_kept_byte_for_byte(kind):
    sample_image = noise(20, 10)
    raw = encoded(sample_image, kind)
    assert thumbnail(raw, sample_image) == (raw, f"image/{kind.lower()}")


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_what_browsers_do_not_draw_becomes_webp(kind):
    sample_image = noise(20, 10)
    data, media_type = thumbnail(encoded(sample_image, kind), sample_image)
    assert media_type == "image/webp"
    with Image.open(io.BytesIO(data)) as kept:
        assert (kept.format, kept.size) == ("WEBP", (20, 10))


def test_a_large_file_is_made_small():
    sample_image = noise(900, 600)
    raw = encoded(sample_image, "PNG")
    assert len(raw) > MAX_COPIED_BYTES
    data, media_type = thumbnail(raw, sample_image)
    assert media_type == "image/webp"
    assert len(data) < MAX_COPIED_BYTES
    with Image.open(io.BytesIO(data)) as kept:
        assert kept.size == (MAX_SIDE, 341)
    assert sample_image.size == (900, 600)
