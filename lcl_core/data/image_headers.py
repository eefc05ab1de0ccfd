"""What an image file declares before it is opened: its size, and the memory that decoding it takes.

Pillow fills a canvas while it *opens* some files (an animated PNG or GIF whose first frame is disposed of), and makes
an object for each strip that a TIFF lists. So PNG, GIF and TIFF are read here byte by byte first.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image

# Named, so that formats which start other programs (EPS) or hide many images (PSD, DDS …) are never tried.
# JPEG stands for MPO too, which Pillow has no opener of its own for (naming it raises KeyError).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
ORIENTATION = 0x0112

MAX_JPEG_SCANS = 100  # each goes through the whole image; encoders write about ten
MAX_TIFF_VALUES = 100_000  # of one tag; each strip's offset becomes an object of some hundred bytes
MAX_EXIF_BYTES = 1 << 20

_PNG, _GIF, _TIFF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), {b"II": "<", b"MM": ">"}
_CORE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes a pixel; all others take 4
_RGB = 4  # bytes a pixel of the result
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_PNG_EXTRA = {b"acTL": 8, b"tRNS": 4}  # bytes a pixel: canvases of an animation; transparency that becomes alpha
_PNG_TEXTS, _PNG_ORIENTATION = (b"tEXt", b"zTXt", b"iTXt"), (b"Raw profile type exif", b"XML:com.adobe.xmp")
# Bytes a pixel that the decoders themselves keep, measured (tests/lcl_core/data/test_decoding_memory.py).
_DECODERS = {"WEBP": 12, "AVIF": 16, "BMP": 3, "PPM": 6, "GIF": 2}
_OFFSETS, _ROWS, _TILE_WIDTH, _TILE_LENGTH, _SAMPLES, _BITS = 273, 278, 322, 323, 277, 258


class Malformed(Exception):
    """The header contradicts itself, or asks for more than any real file does. The message says what."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a header says. ``bytes``: the most memory that decoding to RGB takes, the result included."""

    width: int
    height: int
    bytes: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def declared_of(data: bytes) -> Declared:
    """Read the header alone. Raises: Malformed; whatever Pillow raises for a header that it cannot read."""
    early = before_opening(data)
    if early is not None:
        return early
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_exif(image)
        return Declared(
            image.width, image.height, image.width * image.height * _bytes_per_pixel(image, data) + len(data)
        )


def before_opening(data: bytes) -> Declared | None:
    """The same for PNG and GIF, without Pillow; None for the other formats, of which it checks what is cheap.

    Raises: Malformed.
    """
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(_GIF):
        return _gif(data)
    if data[:2] in _TIFF:
        _check_tiff(data, _TIFF[data[:2]])
    elif data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise Malformed(f"it has more than {MAX_JPEG_SCANS} scans")
    return None


def check_exif(image: Image.Image) -> None:
    """Raises: Malformed for EXIF whose values would take several times its own bytes of memory."""
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        raise Malformed(f"its EXIF is larger than {MAX_EXIF_BYTES:,} bytes")


def _bytes_per_pixel(image: Any, data: bytes) -> int:
    """Of formats that Pillow has opened."""
    core = _CORE.get(image.mode, 4)
    plain = image.mode == "RGB" and not image.has_transparency_data
    turned = image.getexif().get(ORIENTATION, 1) != 1
    own = _DECODERS.get(image.format or "", 0)
    if image.format in ("JPEG", "MPO") and (image.info.get("progressive") or data.count(b"\xff\xda") > 1):
        own = 2 * len(image.getbands())  # coefficients of the whole image, as 16-bit numbers
    if image.format == "TIFF":
        own = -(-block_bytes(image) // max(1, image.width * image.height))
    return core * (2 if turned else 1) + (0 if plain else _RGB) + own


def _png(data: bytes) -> Declared:
    """The largest of its headers, for Pillow believes the last one before the pixels."""
    at, size, cost, extra = len(_PNG), (0, 0), 0, 0
    in_header, turned = True, False
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        in_header = in_header and kind != b"IDAT"
        if kind == b"IHDR" and in_header and length >= 10 and at + 18 <= len(data):
            width, height, bits, colour = struct.unpack_from(">IIBB", data, at + 8)
            core = _CORE.get("I;16" if (bits, colour) == (16, 0) else _PNG_MODES.get(colour, "RGBA"), 4)
            size = max(size, (width, height), key=lambda sides: sides[0] * sides[1])
            cost = max(cost, core + (0 if colour == 2 else _RGB))
        elif in_header and kind in _PNG_EXTRA:
            extra += _PNG_EXTRA[kind]
        elif kind == b"eXIf" or (kind in _PNG_TEXTS and data.startswith(_PNG_ORIENTATION, at + 8)):
            turned = True  # possibly; it may stand behind the pixels
        elif kind == b"IEND":
            break
        at += 12 + length
    cost += min(extra, sum(_PNG_EXTRA.values())) + (_RGB if turned else 0)
    return Declared(*size, size[0] * size[1] * cost + len(data))


def _gif(data: bytes) -> Declared | None:
    """The screen, or what the first frame reaches beyond it; None for a file without a frame, as Pillow says."""
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + _table(flags)
        while data[at] == 0x21:  # extensions: label, then sub-blocks up to an empty one
            at += 2
            while data[at]:
                at += 1 + data[at]
            at += 1
        if data[at] != 0x2C:
            return None
        left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
    except (IndexError, struct.error):
        return None
    width, height = max(width, left + across), max(height, top + down)
    return Declared(width, height, width * height * (_CORE["P"] + _RGB + _DECODERS["GIF"]) + len(data))


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_tiff(data: bytes, order: str) -> None:
    """Refuse tags of so many values that reading them alone fills the memory; of the first image of the file."""
    try:
        if struct.unpack_from(f"{order}H", data, 2)[0] == 43:  # BigTIFF
            (at,), long, entry = struct.unpack_from(f"{order}Q", data, 8), "Q", 20
        else:
            (at,), long, entry = struct.unpack_from(f"{order}I", data, 4), "I", 12
        (count,) = struct.unpack_from(f"{order}{'Q' if long == 'Q' else 'H'}", data, at)
        at += 8 if long == "Q" else 2
        for place in range(min(count, 65_535)):
            _tag, kind, values = struct.unpack_from(f"{order}HH{long}", data, at + place * entry)
            if kind not in (1, 2, 6, 7) and values > MAX_TIFF_VALUES:  # bytes and texts stay bytes
                raise Malformed(f"a tag has {values:,} values, of at most {MAX_TIFF_VALUES:,}")
    except struct.error:
        pass  # cut short: Pillow says so


def block_bytes(image: Any) -> int:
    """Bytes of libtiff's buffer, which holds a whole strip or tile, however much larger than the image that is.

    0 for an image that it does not decode.

    Raises: Malformed.
    """
    if image.format != "TIFF" or not image.tile or image.tile[0][0] != "libtiff":
        return 0
    tags = image.tag_v2
    try:
        across, down = int(tags.get(_TILE_WIDTH, image.width)), int(tags.get(_TILE_LENGTH, 0))
        down = down or min(int(tags.get(_ROWS, image.height)), image.height)
        samples, bits = int(tags.get(_SAMPLES, 1)), max(tags.get(_BITS, (1,)))
        return across * down * max(4, samples * -(-int(bits) // 8))
    except (TypeError, ValueError) as error:
        raise Malformed("its strips or tiles have no size") from error
