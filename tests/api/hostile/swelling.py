"""Images whose headers ask for far more memory than their pixels, and many images that together ask for too much."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

from tests.api.hostile.case import Case

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGE = 30_000  # a side that nobody may send


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(width: int, height: int, bits: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def _png(*chunks: bytes, pixels: bytes = b"\0" * 64) -> bytes:
    return SIGNATURE + b"".join(chunks) + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")


def _frame(side: int, disposal: int) -> bytes:
    """An animation's beginning: two frames, of which the first is disposed of."""
    first = struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, disposal, 0)
    return _chunk(b"acTL", struct.pack(">II", 2, 0)) + _chunk(b"fcTL", first)


def _whole(side: int) -> bytes:
    """A good PNG of so many pixels a side, RGB zeros."""
    return _png(_header(side, side), pixels=(b"\0" * (3 * side + 1)) * side)


def _gif(screen: int, frame: int, disposal: int = 0) -> bytes:
    control = b"\x21\xf9\x04" + bytes([disposal << 2]) + b"\0\0\0\0"
    place = b"\x2c" + struct.pack("<HHHHB", 0, 0, frame, frame, 0)
    return b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0, 0, 0) + control + place + b"\x02\x02\x4c\x01\0;"


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _jpeg(side: int, *, components: int = 3, progressive: bool = False, scans: int = 0) -> bytes:
    parts = b"".join(bytes([number, 0x11, 0]) for number in range(1, components + 1))
    frame = _segment(0xC2 if progressive else 0xC0, struct.pack(">BHHB", 8, side, side, components) + parts)
    scan = _segment(0xDA, bytes([1, 1, 0, 0, 0, 0]))
    return b"\xff\xd8" + _segment(0xDB, bytes(1) + bytes([1] * 64)) + frame + scan * scans + b"\xff\xd9"


def _tiff(*tags: tuple[int, int, int, int], tail: int = 0) -> bytes:
    """Tags as (number, type, values, value or place)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + tail)


def _sizes(side: int, compression: int = 5) -> tuple[tuple[int, int, int, int], ...]:
    return (256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)


def _webp(side: int) -> bytes:
    canvas = b"\x10\0\0\0" + (side - 1).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


TEXT = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
SWELLING = {
    "an animation that fills its canvas when it is opened": _url(_png(_header(LARGE, LARGE), _frame(LARGE, 1))),
    "an animation that would restore what was before": _url(_png(_header(LARGE, LARGE), _frame(LARGE, 2))),
    "a PNG of two headers, the second one large": _url(_png(_header(8, 8), _header(LARGE, LARGE))),
    "a PNG of two headers, the first one large": _url(_png(_header(LARGE, LARGE), _header(8, 8))),
    "an interlaced PNG of a thousand million pixels": _url(_png(_header(LARGE, LARGE, interlaced=1))),
    "a PNG of 16 bits a channel with alpha": _url(_png(_header(LARGE, LARGE, 16, 6))),
    "a PNG of one bit a pixel": _url(_png(_header(LARGE, LARGE, 1, 0))),
    "a PNG whose texts unpack to 9 MB, a megabyte each": _url(_png(_header(8, 8), TEXT * 9)),
    "a PNG one pixel high and two thousand million wide": _url(_png(_header(2**31 - 1, 1))),
    "a PNG of no width": _url(_png(_header(0, 8))),
    "a PNG without its header": _url(_png()),
    "a GIF whose frame reaches far beyond its screen": _url(_gif(8, 65_535), "gif"),
    "a GIF whose first frame is cleared when it is opened": _url(_gif(10_000, 10_000, 2), "gif"),
    "a progressive JPEG of 60,000 pixels a side": _url(_jpeg(60_000, progressive=True, scans=1), "jpeg"),
    "a JPEG of four channels, 60,000 pixels a side": _url(_jpeg(60_000, components=4, scans=1), "jpeg"),
    "a JPEG of two thousand scans": _url(_jpeg(400, progressive=True, scans=2_000), "jpeg"),
    "a TIFF in a tile of 60,000 pixels a side": _url(
        _tiff(*_sizes(8), (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 8), tail=64), "tiff"
    ),
    "a TIFF whose tile has no size": _url(
        _tiff(*_sizes(8), (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8), (325, 4, 1, 8), tail=64), "tiff"
    ),
    "a TIFF of a hundred million strips": _url(_tiff(*_sizes(8), (273, 4, 100_000_000, 64), tail=64), "tiff"),
    "a TIFF of a thousand million pixels": _url(
        _tiff(*_sizes(LARGE), (273, 4, 1, 8), (278, 4, 1, LARGE), (279, 4, 1, 8), tail=64), "tiff"
    ),
    "a WebP of the largest canvas": _url(_webp(16_383), "webp"),
    "a PPM of a thousand million pixels": _url(b"P6 30000 30000 255\n\0", "x-portable-pixmap"),
    "an icon with a large image in it": _url(
        struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 64, 22) + _png(_header(LARGE, LARGE)), "x-icon"
    ),
    "a JPEG 2000 of a thousand million pixels": _url(
        b"\xff\x4f\xff\x51" + struct.pack(">HHIIIIIIIIH", 41, 0, LARGE, LARGE, 0, 0, LARGE, LARGE, 0, 0, 1) + bytes(3),
        "jp2",
    ),
}  # fmt: skip


def _asked(url: str, count: int = 1) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The same images in every request that takes some."""
    part = {"type": "image_url", "image_url": {"url": url}}
    return (
        ("POST /v1/embeddings", {"model": "tiny", "input": [part] * count}),
        ("POST /v1/captions", {"model": "tiny", "images": [url] * count}),
        ("POST /v1/attention", {"model": "tiny", "images": [url] * count}),
        ("POST /v1/continuations", {"model": "tiny", "document": [{"image": url}] * count}),
    )


MANY = _url(_whole(490))  # each is small enough, three of them are not
CASES = [
    *(
        Case("image bombs", what, *_asked(url)[number % len(_asked(url))])
        for number, (what, url) in enumerate(SWELLING.items())
    ),
    *(
        Case("image bombs", f"more pixels together than a request may have, {call.rpartition('/')[2]}", call, body)
        for call, body in _asked(MANY, 3)
    ),
    Case(
        "image bombs",
        "the same, with a text between two images",
        "POST /v1/continuations",
        {"model": "tiny", "document": [{"image": MANY}, "a", {"image": MANY}, "b", {"image": MANY}]},
    ),
    Case("quotas", "a quota of one's own making", "POST /v1/quotas", {"owner": "someone", "runs": 0}, status=(405,)),
    Case("quotas", "a quota that is removed", "DELETE /v1/quotas", status=(405,)),
    Case("quotas", "another owner's quota by name", "GET /v1/quotas/admin", status=(404,)),
    Case(
        "quotas",
        "a run that disables its quota",
        "POST /v1/runs",
        {"kind": "pretrain", "spec": {"preset": "sample"}, "quota": 0},
    ),
    Case(
        "quotas",
        "an import that says how large it is",
        "POST /v1/encoders",
        {"name": "x", "path": "/x", "bytes": -(10**12)},
    ),
]
