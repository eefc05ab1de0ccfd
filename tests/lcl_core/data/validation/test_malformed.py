"""Odd and malformed images and paths: each has its defined result, nothing crashes, nothing hangs."""

import io
import json
import os
import struct
import zipfile
import zlib

import pytest
from PIL import Image

from lcl_core.data import open_corpus
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.validation.validate import validate

OK = None
UNREADABLE, MISSING, FORBIDDEN, BAD_NAME = "unreadable image", "missing image", "forbidden path", "bad pair"
LARGE, SMALL = "image too large", "image too small"


def encoded(mode="RGB", kind="PNG", size=(16, 12), **options):
    buffer = io.BytesIO()
    Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def deep_grey():
    buffer = io.BytesIO()
    Image.new("I;16", (16, 12), 40_000).save(buffer, "PNG")
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(kind="JPEG", exif=exif)


def animated(kind):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "green", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def chunk(kind, data, crc=None):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body) if crc is None else crc)


def png(width, height, depth=8, colour=2, crc=None, more=b""):
    """A PNG whose header says this, with as many black pixels as 16 x 12 of it need."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(12 * (1 + 16 * 3 * depth // 8)))
    body = chunk(b"IHDR", header, crc) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 600, 0, 0, 54) + header + bytes(600)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", encoded())
    return buffer.getvalue()


def half(data):
    return data[: len(data) // 2]


def spoilt(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


# name: what lies in the file, and the result
FILES = {
    "rgb.png": (encoded, OK),
    "grey.png": (lambda: encoded("L"), OK),
    "one-bit.png": (lambda: encoded("1"), OK),
    "palette.png": (lambda: encoded("P"), OK),
    "palette-transparent.png": (lambda: encoded("P", transparency=0), OK),
    "alpha.png": (lambda: encoded("RGBA"), OK),
    "grey-alpha.png": (lambda: encoded("LA"), OK),
    "sixteen-bit-grey.png": (deep_grey, OK),
    "sixteen-bit-colour.png": (lambda: png(16, 12, 16), OK),
    "unknown-chunk.png": (lambda: png(16, 12, more=chunk(b"abCd", b"x")), OK),
    "rgb.jpg": (lambda: encoded(kind="JPEG"), OK),
    "grey.jpg": (lambda: encoded("L", "JPEG"), OK),
    "progressive.jpg": (lambda: encoded(kind="JPEG", progressive=True), OK),
    "cmyk.jpg": (lambda: encoded("CMYK", "JPEG"), OK),
    "upside-down.jpg": (lambda: turned(3), OK),
    "on-its-side.jpg": (lambda: turned(6), OK),
    "mirrored-on-its-side.jpg": (lambda: turned(7), OK),
    "orientation-that-is-none.jpg": (lambda: turned(99), OK),
    "behind-the-end.jpg": (lambda: encoded(kind="JPEG") + b"junk" * 50, OK),
    "png-by-another-name.jpg": (encoded, OK),
    "no-extension": (encoded, OK),
    "two words ü.png": (encoded, OK),
    "animated.gif": (lambda: animated("GIF"), OK),
    "animated.webp": (lambda: animated("WEBP"), OK),
    "animated.png": (lambda: animated("PNG"), OK),
    "pages.tif": (lambda: animated("TIFF"), OK),
    "lossless-alpha.webp": (lambda: encoded("RGBA", "WEBP", lossless=True), OK),
    "plain.bmp": (lambda: encoded(kind="BMP"), OK),
    "plain.ppm": (lambda: encoded(kind="PPM"), OK),
    "cmyk.tif": (lambda: encoded("CMYK", "TIFF"), OK),
    "least-side.png": (lambda: encoded(size=(8, 900)), OK),
    "zero-byte.png": (lambda: b"", UNREADABLE),
    "one-byte.png": (lambda: b"\x89", UNREADABLE),
    "signature-alone.png": (lambda: encoded()[:8], UNREADABLE),
    "truncated.png": (lambda: half(encoded(size=(90, 90))), UNREADABLE),
    "truncated.jpg": (lambda: half(encoded(kind="JPEG", size=(90, 90))), UNREADABLE),
    "truncated.gif": (lambda: half(encoded("P", "GIF", (90, 90))), UNREADABLE),
    "truncated.webp": (lambda: half(encoded(kind="WEBP", size=(90, 90))), UNREADABLE),
    "truncated.bmp": (lambda: half(encoded(kind="BMP")), UNREADABLE),
    "truncated.tif": (lambda: half(encoded(kind="TIFF", size=(90, 90))), UNREADABLE),
    "start-mark-alone.jpg": (lambda: b"\xff\xd8\xff", UNREADABLE),
    "header-checksum.png": (lambda: png(16, 12, crc=1), UNREADABLE),
    "spoilt-pixels.png": (lambda: spoilt(encoded(), 60), UNREADABLE),
    "no-width.png": (lambda: png(0, 12), UNREADABLE),
    "too-few-pixels.png": (lambda: png(500, 500), UNREADABLE),
    "text-bomb.png": (
        lambda: png(16, 12, more=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20)))),
        UNREADABLE,
    ),
    "no-height.bmp": (lambda: bmp(16, 0), UNREADABLE),
    "page.png": (lambda: b"<!doctype html><title>404 Not Found</title>", UNREADABLE),
    "drawing.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNREADABLE),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\n", UNREADABLE),
    "paper.pdf": (lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj", UNREADABLE),
    "icon.ico": (lambda: encoded("RGBA", "ICO", (32, 32)), UNREADABLE),
    "archive.png": (zipped, UNREADABLE),
    "noise.png": (lambda: bytes(range(256)) * 20, UNREADABLE),
    "zeros.jpg": (lambda: bytes(5000), UNREADABLE),
    "giant.png": (lambda: png(60_000, 60_000), LARGE),
    "giant.bmp": (lambda: bmp(40_000, 40_000), LARGE),
    "bytes-over-the-bound.png": (lambda: encoded() + bytes(MAX_IMAGE_BYTES), LARGE),
    "tiny.png": (lambda: encoded(size=(7, 20)), SMALL),
    "line.png": (lambda: encoded(size=(900, 1)), SMALL),
    "dot.gif": (lambda: encoded("P", "GIF", (1, 1)), SMALL),
}
PATHS = {
    "absent.png": MISSING,
    "folder": MISSING,
    "pipe.png": MISSING,
    "rgb.png/inside.png": UNREADABLE,
    "x" * 300 + ".png": UNREADABLE,
    "loop.png": UNREADABLE,
    "out-of-the-corpus.png": FORBIDDEN,
    "../interleaved.jsonl": BAD_NAME,
    "../../outside.png": BAD_NAME,
    "/etc/hostname": BAD_NAME,
    "./rgb.png": BAD_NAME,
    "a//rgb.png": BAD_NAME,
    "folder\\rgb.png": BAD_NAME,
    "nul\0.png": BAD_NAME,
    "half a \ud83d sign.png": MISSING,
    ".": BAD_NAME,
    "rgb.png/": BAD_NAME,
}


@pytest.fixture(scope="module")
def reasons(tmp_path_factory):
    """The reason under which each image of a corpus that has them all is listed."""
    root = tmp_path_factory.mktemp("odd")
    images = root / "corpus" / "images"
    (images / "folder").mkdir(parents=True)
    for name, (data, _) in FILES.items():
        (images / name).write_bytes(data())
    (root / "outside.png").write_bytes(encoded())
    (images / "out-of-the-corpus.png").symlink_to(root / "outside.png")
    (images / "loop.png").symlink_to("loop.png")
    os.mkfifo(images / "pipe.png")
    return examined(root / "corpus", [*FILES, *PATHS])


def examined(folder, names):
    rows = [{"image": name, "captions": [f"caption {place}"]} for place, name in enumerate(names)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = folder.parent / "quarantine.jsonl"
    validate(open_corpus(folder), quarantine=listed)
    found = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
    images = [
        row for row in found if ("#" in row["id"] and row["reason"] != "duplicate image") or row["reason"] == BAD_NAME
    ]
    return {names[row["line"] - 1]: row["reason"] for row in images}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_its_result(reasons, name):
    assert reasons.get(name) == FILES[name][1]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_has_its_result(reasons, name):
    assert reasons.get(name) == PATHS[name]
