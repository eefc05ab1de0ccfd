"""How training went, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcl_core.studies.plots.material import Material
from lcl_core.studies.plots.shared import colour, framed, say_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":", "-.")


def draw_curves(material: Material, figure: Figure) -> None:
    """The mean over the seeds as a line, lowest to highest as a band."""
    axes = framed(figure, material.title)
    drawn = [(number, curve) for number, curve in enumerate(material.curves) if curve["points"]]
    if not drawn:
        say_empty(axes)
        return
    for number, curve in drawn:
        steps, means, lows, highs = zip(*curve["points"], strict=True)
        dashes = DASHES[number // 7 % len(DASHES)]
        axes.plot(steps, means, dashes, color=colour(number), linewidth=1.4, label=material.name(curve))
        axes.fill_between(steps, lows, highs, color=colour(number), alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(material.value.replace("_", " "))
    figure.legend(loc="outside right center", fontsize=8.5)
