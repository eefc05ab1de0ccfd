"""Decoding what nobody vouches for."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import decode_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    decoded = decode_image(encoded(image), "x.png")
    assert decoded.mode == "RGB"
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]


def test_half_transparent_black_is_grey():
    red, green, blue = decode_image(encoded(Image.new("LA", (1, 1), (0, 128))), "x.png").getpixel((0, 0))
    assert red == green == blue
    assert 126 <= red <= 128


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 9, 9, 9])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encoded(image, transparency=1), "x.png")
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 255), (255, 255, 255)]


def test_grey_with_a_transparent_level():
    decoded = decode_image(encoded(Image.new("L", (1, 1), 7), transparency=7), "x.png")
    assert decoded.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_levels():
    levels = np.array([[0, 0x8000, 0xFFFF]], np.uint16)
    decoded = decode_image(encoded(Image.fromarray(levels)), "x.png")
    assert [decoded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_cmyk():
    decoded = decode_image(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), "x.jpg")
    red, green, blue = decoded.getpixel((1, 1))
    assert red > 200
    assert max(green, blue) < 60


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, green, _ = decode_image(data, "x").getpixel((1, 1))
        assert red > 200 > 60 > green, kind


def test_exif_orientation_turns_the_image():
    image = Image.new("RGB", (20, 10), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    assert decode_image(encoded(image, "JPEG", exif=exif), "x.jpg").size == (10, 20)


def test_plain_pixels_are_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(np.asarray(decode_image(encoded(Image.fromarray(pixels)), "x.png")), pixels)


GOOD = encoded(Image.effect_noise((64, 64), 90).convert("RGB"))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"not an image",
        b"\x89PNG\r\n\x1a\n",
        GOOD[: len(GOOD) // 2],
        GOOD[:40],
        GOOD[:200] + bytes(64) + GOOD[264:],
        encoded(Image.new("RGB", (64, 64)), "JPEG")[:200],
        b"RIFF\x24\0\0\0WEBPVP8 ",
        b"GIF89a\xff\xff\xff\xff\0\0\0",
        EPS,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(Image.new("RGB", (4, 4)), "PCX"),
    ],
)
def test_malformed_files_are_named(data):
    with pytest.raises(UserError) as caught:
        decode_image(data, "images/some.png")
    assert (caught.value.code, caught.value.file) == ("image_unreadable", "images/some.png")


def png_header(width, height):
    """A PNG that ends where its pixels begin."""
    fields = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + fields + struct.pack(">2I", zlib.crc32(fields), 99) + b"IDAT"


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_image_of_too_many_pixels_is_refused_before_it_is_decoded(size):
    with pytest.raises(UserError, match="64,000,000 pixels") as caught:
        decode_image(png_header(*size), "bomb.png")
    assert (caught.value.code, caught.value.file) == ("too_large", "bomb.png")


def test_the_bound_on_pixels_is_exact():
    data = encoded(Image.new("RGB", (10, 10)))
    assert decode_image(data, "x", max_pixels=100).size == (10, 10)
    with pytest.raises(UserError):
        decode_image(data, "x", max_pixels=99)


def test_every_cut_of_a_file_is_a_user_error_or_a_image():
    data = encoded(Image.effect_noise((16, 16), 90), "WEBP")
    failed = 0
    for length in range(len(data)):
        try:
            assert decode_image(data[:length], "x.webp").mode == "RGB"
        except UserError:
            failed += 1
    assert failed > len(data) / 2
