"""A team's sprites: numbered cells of some sheets, and the tiles that are put together from them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


class _Sheets:
    """Cells are numbered through all sheets, row by row."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        usual = config["tile_info"][0]
        self._starts: list[int] = []
        self._sheets: list[tuple[Image.Image, int, int]] = []
        self._cells = 0
        for facts in config["tiles-new"]:
            sheet = _sheet(folder / facts["file"])
            if sheet is not None:
                width, height = facts.get("sprite_width", usual["width"]), facts.get("sprite_height", usual["height"])
                self._starts.append(self._cells)
                self._sheets.append((sheet, width, height))
                self._cells += (sheet.width // width) * (sheet.height // height)

    def cell(self, number: int) -> Image.Image | None:
        if not 0 <= number < self._cells:
            return None
        at = bisect_right(self._starts, number) - 1
        sheet, width, height = self._sheets[at]
        row, column = divmod(number - self._starts[at], sheet.width // width)
        left, top = column * width, row * height
        return sheet.crop((left, top, left + width, top + height))


def _sheet(path: Path) -> Image.Image | None:
    """Some teams name sheets that they do not ship."""
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Tile:
    """A drawing of one thing or several."""

    ids: tuple[str, ...]
    _sheets: _Sheets
    _facts: dict[str, Any]

    def image(self) -> Image.Image | None:
        """RGBA, what stands in front over what lies behind; None where there is nothing to see."""
        front = self._cell("fg")
        if front is None or front.getbbox() is None:
            return None
        back = self._cell("bg")
        if back is None or back.size != front.size:
            return front
        back.alpha_composite(front)
        return back

    def _cell(self, layer: str) -> Image.Image | None:
        number = _first(self._facts.get(layer))
        return None if number is None else self._sheets.cell(number)


def _first(value: Any) -> int | None:
    """Of variants, rotations and weighted choices the first."""
    while isinstance(value, list | dict):
        value = value.get("sprite") if isinstance(value, dict) else value[0] if value else None
    return value


def tiles_of(folder: Path) -> Iterator[Tile]:
    """Every tile of a team that has a front."""
    config = json.loads((folder / "tile_config.json").read_text(encoding="utf-8"))
    sheets = _Sheets(folder, config)
    for facts in config["tiles-new"]:
        for tile in facts["tiles"]:
            if "fg" in tile:
                ids = tile["id"] if isinstance(tile["id"], list) else [tile["id"]]
                yield Tile(tuple(ids), sheets, tile)
