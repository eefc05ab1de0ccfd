"""Which encoder lies in a directory."""

from __future__ import annotations

from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.interop.efficientnet import EfficientNetTower
from lcl_core.interop.huggingface import HuggingFaceTextSide, HuggingFaceTower
from lcl_core.interop.openclip import OpenCLIPTower
from lcl_core.interop.origins import IMAGES, recognise
from lcl_core.interop.timm_hub import TimmTower
from lcl_core.transfer.text_side import TextSide
from lcl_core.transfer.tower import Tower
from lcl_core.transfer.towers.lcl import LCLTower

TOWERS: tuple[type[Tower], ...] = (LCLTower, OpenCLIPTower, TimmTower, HuggingFaceTower, EfficientNetTower)


def load_tower(directory: Path) -> Tower:
    """Read a saved encoder of any origin.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
    """
    for each in TOWERS:
        if each.recognises(directory):
            return each.load(directory)
    raise _no_tower(directory)


def load_text_side(directory: Path, field: str) -> TextSide:
    """The text side of a saved encoder, or a text encoder that stands alone.

    Raises:
        UserError: ``encoder_unreadable`` or ``no_text_encoder``, naming ``field`` of the spec.
    """
    try:
        if IMAGES not in recognise(directory).reads:
            return HuggingFaceTextSide.load(directory)
        side = load_tower(directory).text_side
    except UserError as error:
        error.field = field
        raise
    if side is None:
        raise UserError("this encoder reads no texts; name one that does", code="no_text_encoder", field=field)
    return side


def _no_tower(directory: Path) -> UserError:
    try:
        found = f"a model of type {recognise(directory).model} reads texts alone"
        place: str | Path | None = directory
    except UserError as error:
        found, place = error.message, error.file
    return UserError(
        f"there is no encoder here that sees: {found}; give the id of a registered encoder",
        code="encoder_unreadable", field="encoder", file=place,
    )  # fmt: skip
