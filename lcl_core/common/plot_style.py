"""Style of every matplotlib figure: colours and axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcl_core.common.errors import import_optional

INK, MUTED, LINE = "#0f172a", "#526076", "#e2e8f0"
COLOURS = ("#0f766e", "#b45309", "#1d4ed8", "#be185d", "#4d7c0f", "#6d28d9", "#0e7490", "#a16207")


def new_figure(width: float, height: float, dpi: int = 130) -> Any:
    """An empty matplotlib figure, inches."""
    figure_class = import_optional("matplotlib.figure", "drawing figures").Figure
    return figure_class(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")


def style_axes(
    axes: Any, title: str, *, hidden: tuple[str, ...] = ("top", "right"), size: float = 11, pad: float | None = None
) -> None:
    """Title at the left, only the spines that are not ``hidden``, no ticks."""
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=INK, pad=pad)
    for side, spine in axes.spines.items():
        spine.set_visible(side not in hidden)
        spine.set_color(LINE)
    axes.tick_params(length=0, colors=MUTED, labelsize=8)


def save_figure(figure: Any, file: Path) -> None:
    """Write the figure as PNG. Text is drawn as it is: ``$`` in a label of a corpus does not start a formula."""
    text_class = import_optional("matplotlib.text", "drawing figures").Text
    for text in figure.findobj(text_class):
        text.set_parse_math(False)
    figure.savefig(file, metadata={"Software": None})
