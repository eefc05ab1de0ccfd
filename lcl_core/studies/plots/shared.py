"""What the plots share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
INK, PALE = "#0f172a", "#94a3b8"
TITLE_WIDTH, TITLE_LINES = 88, 2
WIDE = 8.0  # a span of more than this factor is drawn on a logarithmic axis


def colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    """Changes when the colours begin again."""
    return MARKERS[(place // len(COLOURS)) % len(MARKERS)]


def framed(figure: Figure, title: str) -> Axes:
    """The axes of a figure with its title, which is cut when it is very long."""
    words = textwrap.wrap(title, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")
    figure.suptitle("\n".join(words), x=0.01, ha="left", fontsize=9.5, color=INK)
    return figure.subplots()


def logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis whose numbers are written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def say_empty(axes: Axes) -> None:
    """In place of a plot that has nothing to show yet."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No figures yet", ha="center", va="center", color=PALE, fontsize=13, transform=axes.transAxes)


def spans_widely(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)
