"""Registry of encoder kinds: load whatever encoder a directory holds."""

from __future__ import annotations

from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.encoders.base import ImageEncoder, TextEncoder
from lcl_core.encoders.detect import IMAGES, EncoderFormat, detect_encoder
from lcl_core.encoders.files import Hashes
from lcl_core.encoders.huggingface import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.openclip import OpenCLIPImageEncoder
from lcl_core.encoders.timm import TimmImageEncoder

IMAGE_ENCODERS: dict[str, type[ImageEncoder]] = {
    "lcl": LCLEncoder,
    "openclip": OpenCLIPImageEncoder,
    "timm": TimmImageEncoder,
    "huggingface": HuggingFaceImageEncoder,
}  # by ``EncoderFormat.kind``


def load_image_encoder(directory: Path, file_hashes: Hashes | None = None) -> ImageEncoder:
    """Load a saved encoder of any kind, frozen.

    Args:
        file_hashes: sha256 of its files by name, where they are known.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it; ``no_image_encoder`` for one
            that reads texts alone.
    """
    found = detect_image_encoder(directory)
    return IMAGE_ENCODERS[found.kind].load(directory, file_hashes)


def detect_image_encoder(directory: Path) -> EncoderFormat:
    """The kind of an encoder that reads images. Raises: UserError as :func:`load_image_encoder`."""
    found = detect_encoder(directory)
    if IMAGES not in found.reads:
        message = f"a model of type {found.model} reads texts alone; give the id of an encoder that reads images"
        raise UserError(message, code="no_image_encoder", field="encoder", file=directory)
    return found


def load_text_encoder(directory: Path, field: str) -> TextEncoder:
    """The text encoder of a saved encoder, or one that was saved alone.

    Raises:
        UserError: ``encoder_unreadable`` or ``no_text_encoder``, naming ``field`` of the spec.
    """
    try:
        if IMAGES not in detect_encoder(directory).reads:
            return HuggingFaceTextEncoder.load(directory)
        found = load_image_encoder(directory).text_encoder
    except UserError as error:
        error.field = field
        raise
    if found is None:
        raise UserError("this encoder reads no texts; name one that does", code="no_text_encoder", field=field)
    return found
