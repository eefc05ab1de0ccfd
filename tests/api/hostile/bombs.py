"""Small things that become large: archives and images."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from pathlib import Path

from tests.api.hostile.case import DATA, TRAP, Case

ZEROS = bytes(16 << 20)
LINE = b'{"text_list": ["a"], "image_info": []}\n'


def _zip(path: Path, name: str, data: bytes, *, method: int = zipfile.ZIP_DEFLATED, says: int | None = None) -> None:
    """A zip of one member; ``says``: the size that its directory declares instead of the true one."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, data)
        if says is not None:
            archive.infolist()[0].file_size = says


def make_archives(folder: Path) -> None:
    """The archives that ``CASES`` name."""
    _zip(folder / "lies-small.zip", "interleaved.jsonl", ZEROS, says=100)
    _zip(folder / "declares-huge.zip", "interleaved.jsonl", LINE, says=5 << 30)
    _zip(folder / "zeros.zip", "interleaved.jsonl", ZEROS)
    _zip(folder / "climbs.zip", "../../interleaved.jsonl", LINE)
    _zip(folder / "absolute.zip", "/etc/interleaved.jsonl", LINE)
    _zip(folder / "bzip2.zip", "interleaved.jsonl", LINE, method=zipfile.ZIP_BZIP2)
    _zip(folder / "lzma.zip", "interleaved.jsonl", LINE, method=zipfile.ZIP_LZMA)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("interleaved.jsonl", LINE)
    _zip(folder / "nested.zip", "inner.zip", inner.getvalue())
    whole = (folder / "nested.zip").read_bytes()
    (folder / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "gzip.zip").write_bytes(zlib.compress(ZEROS))
    encrypted = bytearray((folder / "absolute.zip").read_bytes().replace(b"/etc/", b"/a_a/"))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (folder / "encrypted.zip").write_bytes(encrypted)


ARCHIVES = {
    "16 MB of zeros that say they are 100 bytes": "lies-small",
    "a member that says it has 5 GiB": "declares-huge",
    "16 MB of zeros in a line": "zeros",
    "a member that climbs out": "climbs",
    "a member with an absolute name": "absolute",
    "a member packed with bzip2": "bzip2",
    "a member packed with LZMA": "lzma",
    "a zip in a zip": "nested",
    "a zip cut short": "cut",
    "something else under the name of a zip": "gzip",
    "an encrypted member": "encrypted",
}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + _chunk(b"IDAT", zlib.compress(bytes(64)))
        + _chunk(b"IEND", b"")
    )


def _bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def _jpeg(side: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00" + b"\xff\xd9"


def _url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


IMAGES = {
    "a PNG of ten thousand million pixels": _url(_png(100_000, 100_000)),
    "a PNG wider than any memory": _url(_png(2**31 - 1, 2**31 - 1)),
    "a PNG just above the bound": _url(_png(501, 500)),
    "a PNG with a text that unpacks to 16 MB": _url(_png(8, 8, _chunk(b"zTXt", b"a\0\0" + zlib.compress(ZEROS)))),
    "a GIF of 65,535 pixels a side": _url(b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";", "gif"),
    "a BMP of ten thousand million pixels": _url(_bmp(100_000, 100_000), "bmp"),
    "a JPEG of 65,500 pixels a side": _url(_jpeg(65_500), "jpeg"),
    "an SVG that names an entity": _url(b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/group">]><x>&a;</x>', "svg+xml"),
    "PostScript that would start a program": _url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "png"),
    "a Photoshop file": _url(b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 100_000, 100_000, 8, 3), "png"),
    "an HTML page as an image": _url(b"<html><script>alert(1)</script></html>"),
    "an empty image": _url(b""),
    "more bytes than an image may have": _url(bytes(100_001)),
    "what is not base64": "data:image/png;base64,@@@@",
    "a data URL without a body": "data:image/png;base64",
    "a data URL of text": "data:image/../text/html,<script>",
}  # fmt: skip
ADDRESSES = {
    "an image behind http": f"http://{TRAP}/x.png",
    "an image of the metadata service": "http://169.254.169.254/latest/meta-data/x.png",
    "an image on the disk": "file:///etc/passwd",
    "an image behind gopher": f"gopher://{TRAP}/x.png",
}


def _shown(url: str) -> tuple[tuple[str, dict[str, object]], ...]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return (
        ("POST /v1/captions", {"model": "tiny", "images": [url]}),
        ("POST /v1/embeddings", {"model": "tiny", "input": [part]}),
    )


CASES = [
    *(
        Case("archive bombs", what, "POST /v1/datasets", {"name": "x", "path": f"{DATA}/{name}.zip"})
        for what, name in ARCHIVES.items()
    ),
    *(Case("image bombs", what, *_shown(url)[number % 2]) for number, (what, url) in enumerate(IMAGES.items())),
    *(
        Case("requests to elsewhere", f"{what}, {call.rpartition('/')[2]}", call, body)
        for what, url in ADDRESSES.items()
        for call, body in _shown(url)
    ),
]
