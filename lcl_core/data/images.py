"""From the bytes of a file that nobody vouches for to an RGB picture, within bounds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from lcl_core.errors import UserError

MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_PIXELS = 64_000_000
# JPEG stands for MPO too, which Pillow has no opener of its own for (naming it raises KeyError).
# Named, so that formats which start other programs (EPS) or hide many pictures (PSD, DDS …) are never tried.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_ORIENTATION = 0x0112


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decode ``data`` into an RGB image: upright, first frame, transparency over white.

    Args:
        data: the whole file.
        name: the file's name, for messages only.
        max_pixels: width x height above which the picture is refused before it is decoded.

    Raises:
        UserError: ``image_unreadable`` or ``image_too_large``, naming the file.
    """
    if not data:
        raise UserError("the image file is empty", code="image_unreadable", file=name)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_giants(image, name, max_pixels)
            return _to_rgb(_upright(image))
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, max_pixels) from error
    except Exception as error:  # decoders meet malformed bytes with any exception type
        raise UserError(
            f"the image cannot be decoded ({type(error).__name__}); replace the file or leave it out",
            code="image_unreadable",
            file=name,
        ) from error


def _refuse_giants(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, max_pixels)


def _too_large(name: str, max_pixels: int) -> UserError:
    return UserError(
        f"the image has more than {max_pixels:,} pixels; make it smaller", code="image_too_large", file=name
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF orientation says."""
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colour).convert("RGB")
    # convert() of an RGB image still copies, which also loads the pixels before the file closes
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by its high byte; Pillow alone would clip it to white."""
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
    return Image.fromarray(levels.astype(np.uint8), mode="L").convert("RGB")
