"""A metric against what it cost: what is worth it, and how it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcl_core.studies.fits import PowerLaw
from lcl_core.studies.plots.material import Material
from lcl_core.studies.plots.shared import INK, PALE, colour, framed, logarithmic, marker, say_empty, spans_widely

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[int, dict[str, object], float, float]


def draw_pareto(material: Material, figure: Figure) -> None:
    """Every row, and a line through those that none beats at their cost."""
    axes, points = _begun(material, figure)
    if not points:
        return
    if spans_widely([x for _, _, x, _ in points]):
        logarithmic(axes, "x")
    for number, row, x, y in points:
        found = row["figures"][material.head]  # type: ignore[index]
        low, high = found["interval"] or (y, y)
        axes.errorbar([x], [y], yerr=[[y - low], [high - y]], fmt="none", ecolor=colour(number), alpha=0.5, capsize=3)
        axes.plot([x], [y], marker(number), color=colour(number), markersize=8, zorder=3, label=material.name(row))
    where = {number: (x, y) for number, _, x, y in points}
    front = [where[number] for number in material.table["pareto"][material.head] if number in where]
    axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, linestyle="--", label="Pareto front")
    figure.legend(loc="outside right center", fontsize=8.5)


def draw_scaling(material: Material, figure: Figure) -> None:
    """Both axes logarithmic; rows that differ in the last axis alone are joined, and the power law is drawn."""
    axes, points = _begun(material, figure)
    if not points:
        return
    logarithmic(axes, "x")
    if all(y > 0 for _, _, _, y in points):
        logarithmic(axes, "y")
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(_family(material, point[1]), []).append(point)
    for place, (name, family) in enumerate(groups.items()):
        line = sorted((x, y) for _, _, x, y in family)
        style = f"{marker(place)}-"
        axes.plot(*zip(*line, strict=True), style, color=colour(place), markersize=7, linewidth=1, label=name)
    _draw_law(axes, material, [x for _, _, x, _ in points])
    figure.legend(loc="outside right center", fontsize=8.5)


def _begun(material: Material, figure: Figure) -> tuple[Axes, list[Point]]:
    axes, points = framed(figure, material.title), material.points()
    if not points:
        say_empty(axes)
    axes.set_xlabel(material.cost)
    axes.set_ylabel(material.head)
    return axes, points


def _family(material: Material, row: dict[str, object]) -> str:
    """Labels of all axes but the last one."""
    labels: dict[str, str] = row["labels"]  # type: ignore[assignment]
    return " ".join(labels[axis] for axis in material.table["axes"][:-1] if axis in labels) or material.head


def _draw_law(axes: Axes, material: Material, xs: list[float]) -> None:
    facts = material.table["fits"][material.head]
    if facts is None:
        return
    law = PowerLaw(**facts)
    low, high = law.interval or (None, None)
    words = f"∝ x^{law.exponent:.3f}" + (f"\n(95 %: {low:.3f} – {high:.3f})" if low is not None else "")
    ends = [min(xs), max(xs)]
    axes.plot(ends, [law(x) for x in ends], "--", color=PALE, linewidth=1.5, label=f"power law\n{words}")
