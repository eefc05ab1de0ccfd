"""Decoding in strips, and headers that would take memory before a pixel is read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import (
    MAX_EXIF_BYTES,
    MAX_JPEG_SCANS,
    MAX_TIFF_VALUES,
    decode_image,
    read_image_size,
)


def scene(side):
    levels = np.random.default_rng(0).integers(0, 255, (side // 40, side // 40, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((side, side))


def with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(77)
    return image


def turned():
    exif = Image.Exif()
    exif[274] = 6
    return exif


def same(image):
    return image


def grey16(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)


ZOO = {
    "png": (same, "PNG", {}),
    "png of grey": (lambda image: image.convert("L"), "PNG", {}),
    "png of 16-bit grey": (grey16, "PNG", {}),
    "png with alpha": (with_alpha, "PNG", {}),
    "png of grey with alpha": (lambda image: with_alpha(image).convert("LA"), "PNG", {}),
    "png with a palette": (lambda image: image.quantize(64), "PNG", {}),
    "png with a transparent entry": (lambda image: image.quantize(64), "PNG", {"transparency": 3}),
    "png with a transparent colour": (same, "PNG", {"transparency": (1, 2, 3)}),
    "png of two levels": (lambda image: image.convert("1"), "PNG", {}),
    "png turned": (same, "PNG", {"exif": turned()}),
    "png animated": (same, "PNG", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))], "disposal": 1}),
    "jpeg": (same, "JPEG", {}),
    "jpeg progressive": (same, "JPEG", {"progressive": True, "subsampling": 0}),
    "jpeg of grey": (lambda image: image.convert("L"), "JPEG", {}),
    "jpeg of cmyk": (lambda image: image.convert("CMYK"), "JPEG", {}),
    "jpeg of cmyk progressive": (lambda image: image.convert("CMYK"), "JPEG", {"progressive": True}),
    "jpeg turned": (same, "JPEG", {"exif": turned()}),
    "webp": (same, "WEBP", {"method": 0}),
    "webp lossless": (same, "WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "webp with alpha": (with_alpha, "WEBP", {"method": 0}),
    "gif": (lambda image: image.quantize(64), "GIF", {}),
    "gif disposed of": (lambda image: image.quantize(64), "GIF", {"transparency": 3, "disposal": 2}),
    "bmp": (same, "BMP", {}),
    "bmp of grey": (lambda image: image.convert("L"), "BMP", {}),
    "ppm": (same, "PPM", {}),
    "tiff": (same, "TIFF", {}),
    "tiff packed": (same, "TIFF", {"compression": "tiff_lzw"}),
    "tiff in one strip": (same, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 2_400}}),
    "tiff of cmyk": (lambda image: image.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}),
    "tiff of 16-bit grey": (grey16, "TIFF", {"compression": "tiff_lzw", "tiffinfo": {278: 2_400}}),
    "avif": (same, "AVIF", {"speed": 10}),
    "avif in full colour": (same, "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
    "avif with alpha": (with_alpha, "AVIF", {"speed": 10}),
}


def made(name, side):
    draw, kind, options = ZOO[name]
    buffer = io.BytesIO()
    draw(scene(side)).save(buffer, kind, **options)
    return buffer.getvalue()


def _before(image):
    """The conversion of the whole image at once."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(levels.astype(np.uint8), mode="L").convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, (255, 255, 255, 255)), colour).convert("RGB")
    return image.convert("RGB")


@pytest.mark.parametrize("name", ZOO)
def test_strips_give_the_pixels_of_the_whole(name, monkeypatch):
    monkeypatch.setattr("lcl_core.data.image_decoding._STRIP_BYTES", 40_000)
    data = made(name, 280)  # several strips, the last one shorter
    with Image.open(io.BytesIO(data)) as image:
        whole = _before(image)
    found = decode_image(data, name)
    assert (found.mode, found.size) == ("RGB", whole.size)
    assert found.tobytes() == whole.tobytes()
    assert set(read_image_size(data, name)) == set(whole.size)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def refused(data, code, words="."):
    for read in (read_image_size, decode_image):
        with pytest.raises(UserError, match=words) as caught:
            read(data, "x")
        assert caught.value.code == code


def test_an_animation_that_fills_its_canvas_when_opened_is_refused_first():
    """Pillow fills width x height x 4 bytes for a disposed frame before it looks at the size."""
    frame = struct.pack(">IIIIIHHBB", 0, 30_000, 30_000, 0, 0, 1, 1, 1, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_header(30_000, 30_000) + chunk(b"acTL", struct.pack(">II", 2, 0))
    refused(data + chunk(b"fcTL", frame) + chunk(b"IDAT", zlib.compress(b"")), "too_large")


def test_a_gif_whose_frame_reaches_beyond_its_screen_is_as_large_as_the_frame():
    screen = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x21\xf9\x04\x08\0\0\0\0"
    refused(screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\0;", "too_large")


def test_of_two_png_headers_the_larger_one_counts():
    data = b"\x89PNG\r\n\x1a\n" + png_header(8, 8) + png_header(60_000, 60_000) + chunk(b"IDAT", zlib.compress(b""))
    refused(data, "too_large")


def test_a_jpeg_of_many_scans_is_refused():
    data = made("jpeg progressive", 80)
    scan = data.index(b"\xff\xda")
    refused(data[:scan] + (data[scan:-2] * (MAX_JPEG_SCANS + 1)) + data[-2:], "image_unreadable", "scans")


def test_a_tiff_that_lists_more_strips_than_memory_bears_is_refused():
    count = MAX_TIFF_VALUES + 1
    entry = struct.pack("<HHII", 273, 4, count, 64)
    data = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + bytes(40 + 4 * count)
    refused(data, "image_unreadable", "values")


def test_exif_that_is_larger_than_any_camera_writes_is_refused():
    buffer = io.BytesIO()
    scene(80).save(buffer, "WEBP", exif=b"Exif\0\0" + bytes(MAX_EXIF_BYTES + 1))
    refused(buffer.getvalue(), "image_unreadable", "EXIF")


def test_texts_of_a_png_that_unpack_to_much_are_refused():
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    data = made("png", 40)
    with pytest.raises(UserError) as caught:
        decode_image(data[:33] + text * 9 + data[33:], "x")
    assert caught.value.code == "image_unreadable"
