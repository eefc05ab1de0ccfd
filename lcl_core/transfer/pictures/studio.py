"""All figures of a run, into ``artifacts/figures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.transfer.pictures.confusion import draw_confusion
from lcl_core.transfer.pictures.curves import draw_curves
from lcl_core.transfer.pictures.examples import EXAMPLES
from lcl_core.transfer.pictures.grid import draw_grid
from lcl_core.transfer.records import IMAGE_TO_CLASS, Records, Sheet


def draw_figures(
    records: Path,
    curves: Sequence[dict[str, Any]],
    corpus: Corpus,
    folder: Path,
    *,
    albums: Mapping[str, Corpus] = MappingProxyType({}),
    seed: int,
) -> str | None:
    """Draw what the trained encoder's answers and the curves show.

    Args:
        albums: where pictures lie that are not the corpus's, by the ``album`` in a sheet's facts.

    Returns: why some are left out (matplotlib is not installed), else none.
    """
    folder.mkdir(exist_ok=True)
    sheets = [(sheet, samples) for sheet, samples in Records(records).read() if sheet.encoder == "trained"]
    for sheet, samples in sheets:
        if sheet.kind in EXAMPLES:
            file = folder / f"examples-{Path(sheet.file).stem}.png"
            held = albums.get(sheet.facts.get("album", ""), corpus)
            draw_grid(EXAMPLES[sheet.kind](sheet, samples), held.read_image, _title(sheet), file, seed=seed)
    try:
        for sheet, samples in sheets:
            if sheet.kind == "ranks" and sheet.part == IMAGE_TO_CLASS:
                draw_confusion(samples, _title(sheet), folder / f"confusion-{Path(sheet.file).stem}.png")
        if curves:
            draw_curves(curves, folder / "curves.png")
    except UserError as error:
        if error.code != "missing_extra":
            raise
        return error.message
    return None


def _title(sheet: Sheet) -> str:
    words = (sheet.task, sheet.variant, sheet.part.replace("_", " "), sheet.transfer, f"on {sheet.split}")
    return ", ".join(word for word in words if word)
