"""The best, the worst and some random samples of a sheet, side by side."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lcl_core.transfer.pictures.examples import Example

ROWS = 6
_CELL, _PICTURE, _GAP, _LINE, _LETTERS = 360, 66, 6, 16, 50
_HEIGHT = _PICTURE + 4 * _LINE + 3 * _GAP
_HEADING = 30
_INK, _QUIET, _GOOD, _BAD = "#0f172a", "#526076", "#0f766e", "#b45309"


def pick(examples: Sequence[Example], count: int, seed: int) -> dict[str, list[Example]]:
    """``best`` first, ``worst`` first, and a seeded ``random`` draw, ``count`` of each; of equals the earlier ones."""
    ranked = sorted(examples, key=lambda example: -example.goodness)
    worst = sorted(examples, key=lambda example: example.goodness)
    drawn = random.Random(seed).sample(examples, min(count, len(examples)))  # noqa: S311
    return {"best": ranked[:count], "worst": worst[:count], "random": drawn}


def draw_grid(
    examples: Sequence[Example], read_image: Callable[[str], Image.Image], title: str, file: Path, *, seed: int
) -> None:
    """Three columns of pictures with words.

    Args:
        read_image: a corpus's, by name.
    """
    columns = pick(examples, ROWS, seed)
    size = (_GAP + len(columns) * (_CELL + _GAP), 2 * _HEADING + ROWS * _HEIGHT)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 8), title, fill=_INK, font=_font(15))
    for column, (name, chosen) in enumerate(columns.items()):
        left = _GAP + column * (_CELL + _GAP)
        pen.text((left, _HEADING + 6), name, fill=_QUIET, font=_font(14))
        for row, example in enumerate(chosen):
            _draw_cell(sheet, pen, (left, 2 * _HEADING + row * _HEIGHT), example, read_image)
    sheet.save(file)


def _draw_cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    example: Example,
    read_image: Callable[[str], Image.Image],
) -> None:
    left, top = corner
    if example.right is not None:
        pen.rectangle((left, top, left + 3, top + _PICTURE), fill=_GOOD if example.right else _BAD)
    for place, name in enumerate(example.images):
        picture = ImageOps.contain(read_image(name), (_PICTURE, _PICTURE))
        sheet.paste(picture, (left + 8 + place * (_PICTURE + 3), top))
    lines = [part for words in example.words for part in textwrap.wrap(words, _LETTERS)[:2]]
    for place, line in enumerate(lines[:4]):
        pen.text((left, top + _PICTURE + _GAP + place * _LINE), line, fill=_INK, font=_font(12))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
