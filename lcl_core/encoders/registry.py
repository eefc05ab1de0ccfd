"""Registry of encoder kinds: load whatever encoder a directory holds."""

from __future__ import annotations

from pathlib import Path

from lcl_core.common.errors import UserError
from lcl_core.encoders.base import ImageEncoder, TextEncoder
from lcl_core.encoders.detect import IMAGES, detect_encoder
from lcl_core.encoders.efficientnet import EfficientNetImageEncoder
from lcl_core.encoders.huggingface import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.openclip import OpenCLIPImageEncoder
from lcl_core.encoders.timm import TimmImageEncoder

IMAGE_ENCODERS: tuple[type[ImageEncoder], ...] = (
    LCLEncoder,
    OpenCLIPImageEncoder,
    TimmImageEncoder,
    HuggingFaceImageEncoder,
    EfficientNetImageEncoder,
)


def load_image_encoder(directory: Path) -> ImageEncoder:
    """Read a saved encoder of any origin.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
    """
    for each in IMAGE_ENCODERS:
        if each.matches(directory):
            return each.load(directory)
    raise _no_image_encoder(directory)


def load_text_encoder(directory: Path, field: str) -> TextEncoder:
    """The text side of a saved encoder, or a text encoder that stands alone.

    Raises:
        UserError: ``encoder_unreadable`` or ``no_text_encoder``, naming ``field`` of the spec.
    """
    try:
        if IMAGES not in detect_encoder(directory).reads:
            return HuggingFaceTextEncoder.load(directory)
        side = load_image_encoder(directory).text_encoder
    except UserError as error:
        error.field = field
        raise
    if side is None:
        raise UserError("this encoder reads no texts; name one that does", code="no_text_encoder", field=field)
    return side


def _no_image_encoder(directory: Path) -> UserError:
    try:
        found = f"a model of type {detect_encoder(directory).model} reads texts alone"
        place: str | Path | None = directory
    except UserError as error:
        found, place = error.message, error.file
    return UserError(
        f"there is no encoder here that sees: {found}; give the id of a registered encoder",
        code="encoder_unreadable", field="encoder", file=place,
    )  # fmt: skip
