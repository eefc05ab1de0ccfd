"""Untrusted image bytes to an RGB image, with bounds on pixels and memory.

The size in the header is checked first. Pillow allocates a canvas while it *opens*
some files (an animated PNG or GIF whose first frame is disposed of) and one object for each strip that a TIFF lists,
so PNG, GIF and TIFF headers are parsed here without Pillow. ``thumbnail`` makes the copy that a page shows.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from lcl_core.common.errors import UserError
from lcl_core.specs.data import NARROWEST_RATIO, Fit

# Named, so that formats which start other programs (EPS) or hide many images (PSD, DDS …) are never tried.
# JPEG stands for MPO too, which Pillow has no opener of its own for (naming it raises KeyError).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
ORIENTATION = 0x0112

MAX_JPEG_SCANS = 100  # each goes through the whole image; encoders write about ten
MAX_TIFF_VALUES = 100_000  # of one tag; each strip's offset becomes an object of some hundred bytes
MAX_EXIF_BYTES = 1 << 20

MAX_COPIED_BYTES = 1_000_000  # of an image that is stored as it came
MAX_SIDE = 512  # pixels of an image that is encoded again
# formats that every browser draws; others are encoded again as WebP
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}

_PNG, _GIF, _TIFF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a"), {b"II": "<", b"MM": ">"}
_ROWS, _TILE_WIDTH, _TILE_LENGTH, _SAMPLES, _BITS = 278, 322, 323, 277, 258
Size = tuple[int, int]  # width and height


class MalformedImage(Exception):
    """The header contradicts itself or exceeds the limits."""


def precheck_header(data: bytes) -> Size | None:
    """The size of a PNG or GIF, without Pillow; None for the other formats, of which it checks what is cheap.

    Raises: MalformedImage.
    """
    if data.startswith(_PNG):
        return _png_size(data)
    if data.startswith(_GIF):
        return _gif_size(data)
    if data[:2] in _TIFF:
        _check_tiff(data, _TIFF[data[:2]])
    elif data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise MalformedImage(f"it has more than {MAX_JPEG_SCANS} scans")
    return None


def check_exif(image: Image.Image) -> None:
    """Raises: MalformedImage for EXIF whose values would take several times its own bytes of memory."""
    if len(image.info.get("exif", b"")) > MAX_EXIF_BYTES:
        raise MalformedImage(f"its EXIF is larger than {MAX_EXIF_BYTES:,} bytes")


def _png_size(data: bytes) -> Size:
    """Of the largest of its headers, for Pillow believes the last one before the pixels."""
    at, size = len(_PNG), (0, 0)
    while at + 18 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"IHDR" and length >= 10:
            width, height = struct.unpack_from(">II", data, at + 8)
            size = (width, height) if width * height > math.prod(size) else size
        at += 12 + length
    return size


def _gif_size(data: bytes) -> Size | None:
    """The screen, or what the first frame reaches beyond it; None for a file without a frame, as Pillow says."""
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)  # after the table of colours
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
    return max(width, left + across), max(height, top + down)


def _check_tiff(data: bytes, order: str) -> None:
    """Refuse tags of so many values that reading them alone fills the memory; of the first image of the file."""
    try:
        if struct.unpack_from(f"{order}H", data, 2)[0] == 43:  # BigTIFF
            (at,), long, entry = struct.unpack_from(f"{order}Q", data, 8), "Q", 20
        else:
            (at,), long, entry = struct.unpack_from(f"{order}I", data, 4), "I", 12
        (count,) = struct.unpack_from(f"{order}{'Q' if long == 'Q' else 'H'}", data, at)
        at += 8 if long == "Q" else 2
        for index in range(min(count, 65_535)):
            _tag, kind, values = struct.unpack_from(f"{order}HH{long}", data, at + index * entry)
            if kind not in (1, 2, 6, 7) and values > MAX_TIFF_VALUES:  # bytes and texts stay bytes
                raise MalformedImage(f"a tag has {values:,} values, of at most {MAX_TIFF_VALUES:,}")
    except struct.error:
        pass  # cut short: Pillow says so


def tiff_block_bytes(image: Any) -> int:
    """Bytes of libtiff's buffer, which holds a whole strip or tile, however much larger than the image that is.

    0 for an image that it does not decode.

    Raises: MalformedImage.
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
        raise MalformedImage("its strips or tiles have no size") from error


MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
PngImagePlugin.MAX_TEXT_MEMORY = 8 << 20  # of all unpacked texts of a PNG; Pillow's own bound is 64 MiB
_BLOCK_BYTES = 8  # a pixel of the largest strip or tile: four channels of 16 bits
_STRIP_BYTES = 1 << 20  # converted at a time


@dataclass(frozen=True, slots=True)
class CropNeed:
    """What a training transform will cut out of an image: a random crop, resized to a square.

    Attributes:
        size: side of the square, pixels.
        smallest_share: of the image's area that a crop may have.
        fit: how the image becomes square.
    """

    size: int
    smallest_share: float
    fit: Fit = "crop"

    def reduction(self, width: int, height: int) -> int:
        """1, 2, 4 or 8: by how much both sides may shrink so that no crop has fewer pixels than the square needs.

        The narrowest crop has an aspect ratio of 3/4 or 4/3; the central one, taken when none fits, the short side.
        """
        narrowest = self._narrowest(width, height)
        return max(factor for factor in (1, 2, 4, 8) if factor == 1 or narrowest / factor >= self.size)

    def smallest_size(self, width: int, height: int) -> tuple[int, int]:
        """The smallest size in which no crop has fewer pixels than the square; never a larger one.

        Its shape is the image's, unless ``fit`` is squash.
        """
        if self.fit == "squash":
            needed = math.ceil(self.size / math.sqrt(self.smallest_share * NARROWEST_RATIO))
            return min(width, needed), min(height, needed)
        factor = min(1.0, self.size / self._narrowest(width, height))
        return math.ceil(width * factor), math.ceil(height * factor)

    def _narrowest(self, width: int, height: int) -> float:
        if self.fit != "crop":
            seen = max(width, height) if self.fit == "pad" else min(width, height)
            return seen * math.sqrt(self.smallest_share * NARROWEST_RATIO)
        return min(math.sqrt(width * height * self.smallest_share * NARROWEST_RATIO), width, height)


def decode_image(
    data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS, need: CropNeed | None = None
) -> Image.Image:
    """Decode ``data`` into an RGB image: upright, first frame, transparency over white.

    Args:
        data: the whole file.
        name: the file's name, for messages only.
        max_pixels: width x height above which the image is refused before it is decoded.
        need: what will be cut out; a JPEG twice or more as large as that is decoded at a half, a quarter or an
            eighth, where the decoder leaves out the frequencies instead of computing and averaging pixels.

    Raises:
        UserError: ``image_unreadable`` or ``too_large``, naming the file.
    """
    with _decoder_errors(data, name, max_pixels):
        stated = precheck_header(data)
        if stated is not None:
            _check_pixel_count(stated, name, max_pixels)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixel_count(image.size, name, max_pixels)
            if tiff_block_bytes(image) > _BLOCK_BYTES * max_pixels:
                raise MalformedImage("its strips or tiles are larger than an image may be")
            if stated is not None and math.prod(image.size) > math.prod(stated):
                raise MalformedImage("its headers contradict one another")
            if need is not None:
                factor = need.reduction(*image.size)
                if factor > 1 and image.format in ("JPEG", "MPO"):  # decoders that can give fewer pixels
                    image.draft(None, (image.width // factor, image.height // factor))
            image.load()  # some formats have their EXIF behind the pixels
            check_exif(image)
            upright = image.getexif().get(ORIENTATION, 1) == 1
            return _to_rgb(image if upright else ImageOps.exif_transpose(image))


def read_image_size(data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Size:
    """Of the image as it is stored; no pixel is read. Raises: UserError as ``decode_image``, as far as headers tell."""
    with _decoder_errors(data, name, max_pixels):
        size = precheck_header(data)
        if size is None:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_exif(image)
                size = image.size
        _check_pixel_count(size, name, max_pixels)
        return size


@contextmanager
def _decoder_errors(data: bytes, name: str, max_pixels: int) -> Iterator[None]:
    """Give whatever decoders raise the one form of an error."""
    if not data:
        raise UserError("the image file is empty", code="image_unreadable", file=name)
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, max_pixels) from error
    except Exception as error:  # decoders meet malformed bytes with any exception type
        reason = str(error) if isinstance(error, MalformedImage) else type(error).__name__
        raise UserError(
            f"the image cannot be decoded ({reason}); replace the file or leave it out",
            code="image_unreadable",
            file=name,
        ) from error


def _check_pixel_count(size: Size, name: str, max_pixels: int) -> None:
    if math.prod(size) > max_pixels:
        raise _too_large(name, max_pixels)


def _too_large(name: str, max_pixels: int) -> UserError:
    return UserError(f"the image has more than {max_pixels:,} pixels; make it smaller", code="too_large", file=name)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any image, strip by strip: beside the image and the result only one strip is in memory."""
    convert: Callable[[Image.Image], Image.Image] = _drop_alpha
    if image.mode.startswith("I"):
        convert = _grey16_to_rgb
    elif image.has_transparency_data:
        convert = _composite_on_white
    elif image.mode == "RGB":
        if image.format not in ("WEBP", "AVIF"):
            return image
        convert = Image.Image.copy  # their decoders keep canvases of the same size as long as the image lives
    result = Image.new("RGB", image.size)
    rows = max(1, _STRIP_BYTES // (4 * image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted = convert(strip)
        result.paste(converted, (0, top))
        result.info = converted.info
    return result


def _drop_alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    colour = image.convert("RGBA")
    white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colour).convert("RGB")


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by its high byte; Pillow alone would clip it to white."""
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
    return Image.fromarray(levels.astype(np.uint8), mode="L").convert("RGB")


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
