"""Plots of a study by matplotlib, as SVG or PNG: metric by row, against cost, over steps."""

from __future__ import annotations

import io
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lcl_core.common.errors import UserError
from lcl_core.common.plot_style import DOCUMENT_STYLE, INK, PALE, series_colour, series_marker
from lcl_core.studies.statistics import PowerLaw
from lcl_core.studies.table import point_of, row_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Json = dict[str, Any]
KINDS = {"svg": "image/svg+xml", "png": "image/png"}
_LOCK = threading.Lock()  # matplotlib's settings are global to the process
TITLE_WIDTH, TITLE_LINES = 88, 2
WIDE = 8.0  # a span of more than this factor is drawn on a logarithmic axis
COST_WORDS = {
    "seconds": "seconds of training",
    "images_seen": "images seen",
    "tokens_seen": "tokens seen",
    "flops": "floating-point operations of training (estimate)",
}


@dataclass(frozen=True)
class PlotData:
    """A study's table and curves, and the metric to plot.

    Attributes:
        head: of the metric's column.
        value: key of the metric lines that ``curves`` are of.
    """

    title: str
    table: Json
    head: str
    curves: Sequence[Json] = ()
    value: str = "loss"

    @property
    def metric(self) -> Json:
        return next(metric for metric in self.table["metrics"] if metric["name"] == self.head)

    @property
    def cost(self) -> str:
        """Label of the cost axis."""
        return COST_WORDS[self.table["compute"]]

    def name(self, row: Json) -> str:
        return row_name(self.table, row)

    def known(self) -> list[tuple[int, Json, Json]]:
        """(number, row, figure) of the rows that have the metric."""
        rows = enumerate(self.table["rows"])
        return [(number, row, row["figures"][self.head]) for number, row in rows if self.head in row["figures"]]

    def points(self) -> list[tuple[int, Json, float, float]]:
        """(number, row, cost, mean) of the rows that have both."""
        found = ((number, row, point_of(row, self.head, self.table["compute"])) for number, row, _ in self.known())
        return [(number, row, *point) for number, row, point in found if point is not None]


def titled_axes(figure: Figure, title: str) -> Axes:
    """The axes of a figure under its title, which is cut to two lines."""
    words = textwrap.wrap(title, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" …")
    figure.suptitle("\n".join(words), x=0.01, ha="left", fontsize=9.5, color=INK)
    return figure.subplots()


def set_log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw_empty(axes: Axes) -> None:
    """Placeholder of a plot without data."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, "No figures yet", ha="center", va="center", color=PALE, fontsize=13, transform=axes.transAxes)


def spans_widely(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > WIDE * min(values)


ROW_INCHES = 0.42


def draw_rows(data: PlotData, figure: Figure) -> None:
    """One line a row, the first on top."""
    known = data.known()
    figure.set_size_inches(7.2, 1.3 + ROW_INCHES * max(len(known), 3))
    axes = titled_axes(figure, data.title)
    if not known:
        draw_empty(axes)
        return
    for height, (number, _, found) in enumerate(known):
        _draw_row(axes, height, found, series_colour(number))
    axes.set_yticks(range(len(known)), [data.name(row) for _, row, _ in known])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(data.head)
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


Point = tuple[int, dict[str, object], float, float]


def draw_pareto(data: PlotData, figure: Figure) -> None:
    """Every row, and a line through the Pareto front."""
    axes, points = _cost_axes(data, figure)
    if not points:
        return
    if spans_widely([x for _, _, x, _ in points]):
        set_log_axis(axes, "x")
    for number, row, x, y in points:
        found = row["figures"][data.head]  # type: ignore[index]
        low, high = found["interval"] or (y, y)
        axes.errorbar(
            [x], [y], yerr=[[y - low], [high - y]], fmt="none", ecolor=series_colour(number), alpha=0.5, capsize=3
        )
        axes.plot(
            [x], [y], series_marker(number), color=series_colour(number), markersize=8, zorder=3, label=data.name(row)
        )
    where = {number: (x, y) for number, _, x, y in points}
    front = [where[number] for number in data.table["pareto"][data.head] if number in where]
    axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, linestyle="--", label="Pareto front")
    figure.legend(loc="outside right center", fontsize=8.5)


def draw_scaling(data: PlotData, figure: Figure) -> None:
    """Both axes logarithmic; rows that differ in the last axis alone are joined, and the power law is drawn."""
    axes, points = _cost_axes(data, figure)
    if not points:
        return
    set_log_axis(axes, "x")
    if all(y > 0 for _, _, _, y in points):
        set_log_axis(axes, "y")
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(_series_name(data, point[1]), []).append(point)
    for number, (name, family) in enumerate(groups.items()):
        line = sorted((x, y) for _, _, x, y in family)
        style = f"{series_marker(number)}-"
        axes.plot(*zip(*line, strict=True), style, color=series_colour(number), markersize=7, linewidth=1, label=name)
    _draw_power_law(axes, data, [x for _, _, x, _ in points])
    figure.legend(loc="outside right center", fontsize=8.5)


def _cost_axes(data: PlotData, figure: Figure) -> tuple[Axes, list[Point]]:
    axes, points = titled_axes(figure, data.title), data.points()
    if not points:
        draw_empty(axes)
    axes.set_xlabel(data.cost)
    axes.set_ylabel(data.head)
    return axes, points


def _series_name(data: PlotData, row: dict[str, object]) -> str:
    """Labels of all axes but the last one."""
    labels: dict[str, str] = row["labels"]  # type: ignore[assignment]
    return " ".join(labels[axis] for axis in data.table["axes"][:-1] if axis in labels) or data.head


def _draw_power_law(axes: Axes, data: PlotData, xs: list[float]) -> None:
    facts = data.table["fits"][data.head]
    if facts is None:
        return
    law = PowerLaw(**facts)
    low, high = law.interval or (None, None)
    words = f"∝ x^{law.exponent:.3f}" + (f"\n(95 %: {low:.3f} – {high:.3f})" if low is not None else "")
    ends = [min(xs), max(xs)]
    axes.plot(ends, [law(x) for x in ends], "--", color=PALE, linewidth=1.5, label=f"power law\n{words}")


DASHES = ("-", "--", ":", "-.")


def draw_curves(data: PlotData, figure: Figure) -> None:
    """The mean over the seeds as a line, lowest to highest as a band."""
    axes = titled_axes(figure, data.title)
    drawn = [(number, curve) for number, curve in enumerate(data.curves) if curve["points"]]
    if not drawn:
        draw_empty(axes)
        return
    for number, curve in drawn:
        steps, means, lows, highs = zip(*curve["points"], strict=True)
        dashes = DASHES[number // 7 % len(DASHES)]
        axes.plot(steps, means, dashes, color=series_colour(number), linewidth=1.4, label=data.name(curve))
        axes.fill_between(steps, lows, highs, color=series_colour(number), alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(data.value.replace("_", " "))
    figure.legend(loc="outside right center", fontsize=8.5)


PLOTS: dict[str, Callable[[PlotData, Figure], None]] = {
    "rows": draw_rows,
    "pareto": draw_pareto,
    "curves": draw_curves,
    "scaling": draw_scaling,
}


def draw_plot(name: str, data: PlotData, kind: str = "svg") -> bytes:
    """The plot as a file. Raises: UserError ``unknown_plot`` naming the known ones."""
    if name not in PLOTS or kind not in KINDS:
        known = ", ".join(f"{plot}.{ending}" for plot in PLOTS for ending in KINDS)
        raise UserError(f"there is no plot {name}.{kind}; choose from {known}", code="unknown_plot")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with _LOCK, mpl.rc_context(DOCUMENT_STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        PLOTS[name](data, figure)
        figure.savefig(out, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
