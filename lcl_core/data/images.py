"""From the bytes of a file that nobody vouches for to an RGB picture, within bounds."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from lcl_core.data.image_headers import (
    FORMATS,
    ORIENTATION,
    Declared,
    Malformed,
    before_opening,
    block_bytes,
    check_exif,
    declared_of,
)
from lcl_core.errors import UserError

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
PngImagePlugin.MAX_TEXT_MEMORY = 8 << 20  # of all unpacked texts of a PNG; Pillow's own bound is 64 MiB
_NARROWEST_RATIO = 3 / 4
_BLOCK_BYTES = 8  # a pixel of the largest strip or tile: four channels of 16 bits
_STRIP_BYTES = 1 << 20  # converted at a time


@dataclass(frozen=True, slots=True)
class CropNeed:
    """What a training transform will cut out of a picture: a random crop, resized to a square.

    Attributes:
        size: side of the square, pixels.
        smallest_share: of the picture's area that a crop may have.
    """

    size: int
    smallest_share: float

    def reduction(self, width: int, height: int) -> int:
        """1, 2, 4 or 8: by how much both sides may shrink so that no crop has fewer pixels than the square needs.

        The narrowest crop has an aspect ratio of 3/4 or 4/3; the central one, taken when none fits, the short side.
        """
        narrowest = min(math.sqrt(width * height * self.smallest_share * _NARROWEST_RATIO), width, height)
        return max(factor for factor in (1, 2, 4, 8) if factor == 1 or narrowest / factor >= self.size)


def decode_image(
    data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS, need: CropNeed | None = None
) -> Image.Image:
    """Decode ``data`` into an RGB image: upright, first frame, transparency over white.

    Args:
        data: the whole file.
        name: the file's name, for messages only.
        max_pixels: width x height above which the picture is refused before it is decoded.
        need: what will be cut out; a JPEG twice or more as large as that is decoded at a half, a quarter or an
            eighth, where the decoder leaves out the frequencies instead of computing and averaging pixels.

    Raises:
        UserError: ``image_unreadable`` or ``image_too_large``, naming the file.
    """
    with _readable(data, name, max_pixels):
        early = before_opening(data)
        if early is not None:
            _refuse_giants(early, name, max_pixels)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_giants(image, name, max_pixels)
            if block_bytes(image) > _BLOCK_BYTES * max_pixels:
                raise Malformed("its strips or tiles are larger than an image may be")
            if early is not None and image.width * image.height > early.pixels:
                raise Malformed("its headers contradict one another")
            if need is not None:
                _shrink_on_load(image, need)
            return _to_rgb(_upright(image))


def image_header(data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Declared:
    """What ``decode_image`` would decode, and the memory that it would take; no pixel is read.

    Raises:
        UserError: as ``decode_image``, as far as the header tells.
    """
    with _readable(data, name, max_pixels):
        declared = declared_of(data)
        _refuse_giants(declared, name, max_pixels)
        return declared


@contextmanager
def _readable(data: bytes, name: str, max_pixels: int) -> Iterator[None]:
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
        said = str(error) if isinstance(error, Malformed) else type(error).__name__
        raise UserError(
            f"the image cannot be decoded ({said}); replace the file or leave it out",
            code="image_unreadable",
            file=name,
        ) from error


def _shrink_on_load(image: Image.Image, need: CropNeed) -> None:
    """Tell the JPEG decoder to give fewer pixels; other formats cannot."""
    factor = need.reduction(*image.size)
    if factor > 1 and image.format in ("JPEG", "MPO"):
        image.draft(None, (image.width // factor, image.height // factor))


def _refuse_giants(image: Image.Image | Declared, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)


def _too_large(name: str, max_pixels: int) -> UserError:
    return UserError(
        f"the image has more than {max_pixels:,} pixels; make it smaller", code="image_too_large", file=name
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says."""
    image.load()  # some formats have their EXIF behind the pixels
    check_exif(image)
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any image, strip by strip: beside the image and the result only one strip is in memory."""
    convert = _converter(image)
    if convert is None:
        if image.format not in ("WEBP", "AVIF"):
            return image
        convert = Image.Image.copy  # their decoders keep canvases of the same size as long as the image lives
    found = Image.new("RGB", image.size)
    rows = max(1, _STRIP_BYTES // (4 * image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted = convert(strip)
        found.paste(converted, (0, top))
        found.info = converted.info
    return found


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """How a strip of the image becomes RGB; None: it is RGB already."""
    if image.mode.startswith("I"):
        return _from_deep_grey
    if image.has_transparency_data:
        return _over_white
    return None if image.mode == "RGB" else _opaque


def _opaque(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    colour = image.convert("RGBA")
    white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colour).convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by its high byte; Pillow alone would clip it to white."""
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
    return Image.fromarray(levels.astype(np.uint8), mode="L").convert("RGB")
