"""Colours and axes of every matplotlib figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcl_core.common.optional import import_optional

INK, MUTED, LINE = "#0f172a", "#526076", "#e2e8f0"
COLOURS = ("#0f766e", "#b45309", "#1d4ed8", "#be185d", "#4d7c0f", "#6d28d9", "#0e7490", "#a16207")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, inches. Raises: UserError ``missing_extra`` without matplotlib."""
    figure_class = import_optional("matplotlib.figure", "drawing figures").Figure
    return figure_class(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")


def style_axes(axes: Any, title: str) -> None:
    """Title at the left, no box, no ticks."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(length=0, colors=MUTED, labelsize=8)


def save_figure(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Software": None})
