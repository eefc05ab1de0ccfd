"""A metric of every row: each seed, the mean and its interval, beside chance and the untrained architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcl_core.studies.plots.material import Json, Material
from lcl_core.studies.plots.shared import INK, PALE, colour, framed, say_empty

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_INCHES = 0.42


def draw_rows(material: Material, figure: Figure) -> None:
    """One line a row, the first on top."""
    known = material.known()
    figure.set_size_inches(7.2, 1.3 + ROW_INCHES * max(len(known), 3))
    axes = framed(figure, material.title)
    if not known:
        say_empty(axes)
        return
    for height, (number, _, found) in enumerate(known):
        _draw_row(axes, height, found, colour(number))
    axes.set_yticks(range(len(known)), [material.name(row) for _, row, _ in known])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(material.head)
    axes.plot([], [], "|", color=PALE, markersize=11, label="chance")
    axes.plot([], [], "|", color=INK, markersize=11, label="untrained")
    axes.plot([], [], "o", color=PALE, markersize=4, label="one seed")
    axes.errorbar([], [], xerr=[], fmt="D", color=PALE, markersize=6, label="mean, 95 %")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)


def _draw_row(axes: Axes, height: int, found: Json, shade: str) -> None:
    values = list(found["values"].values())
    axes.plot(values, [height] * len(values), "o", color=shade, alpha=0.45, markersize=4, zorder=2)
    low, high = found["interval"] or (found["mean"], found["mean"])
    reach = [[found["mean"] - low], [high - found["mean"]]]
    axes.errorbar([found["mean"]], [height], xerr=reach, fmt="D", color=shade, markersize=6, capsize=3, zorder=3)
    for name, ink in (("chance", PALE), ("untrained", INK)):
        if found[name] is not None:
            axes.plot([found[name]], [height], "|", color=ink, markersize=13, zorder=1)
