"""Vector drawings as pixels. Needs resvg-py, of the extra ``corpora``."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from lcl_core.corpora.steps.pictures import readable, trimmed
from lcl_core.errors import UserError

_FINER = 8  # how much larger a drawing is drawn before its border is cut off


def rasterised(svg: str, side: int) -> bytes | None:
    """PNG with both sides at most ``side`` pixels; None for what is no drawing. No font of this machine is used."""
    try:
        return bytes(_resvg().svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))
    except UserError:
        raise
    except Exception:  # malformed drawings, with an exception type of the library's own
        return None


def _resvg() -> Any:
    try:
        return import_module("resvg_py")
    except ImportError as error:
        message = "drawings need resvg-py, which is not installed; `pip install 'lcl[corpora]'` brings it"
        raise UserError(message, code="missing_extra") from error


def shrunk(drawing: tuple[Path, Path], side: int) -> bytes | None:
    """A large drawing without its empty border, ``side`` pixels at most, as PNG; None if it cannot be had.

    ``drawing``: its pixels, and the vectors that they were made from, for where there are too many of them.
    """
    pixels, vectors = drawing
    image = readable(pixels) or _drawn(vectors, side * _FINER)
    if image is None:
        return None
    small = trimmed(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _drawn(vectors: Path, side: int) -> Image.Image | None:
    if not vectors.is_file():
        return None
    png = rasterised(vectors.read_text(encoding="utf-8", errors="replace"), side)
    return None if png is None else readable(png)
