"""Charts as inline SVG, in the colours of the page; no script and no plotting library.

Curve of one metric, curves of several runs, cost and training curves of a study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ui.html import badge, esc, number

MAX_POINTS = 400
PALETTE_SIZE = 11  # colours in style.css
Point = tuple[float, float]
Json = Mapping[str, Any]
Frame = tuple[float, float, float, float]  # left, right, bottom, top

MAX_SERIES = 6  # colours and dashes in style.css (--lcl-o0 …), safe for colour blindness
TRANSIENT_SHARE = 0.05  # of the longest curve; the steep start does not set the limits of y
_MAX_RAW_SERIES = 3  # raw values are drawn up to this number of curves
_EXACT = ("lr",)  # metrics without noise, which are not smoothed
_HOVER_POINTS = 200  # of a line, for the value at the cursor

AXIS_LABELS = {"step": "Steps", "images_seen": "Images seen"}
METRIC_LABELS = {
    "loss": "Loss",
    "contrastive_loss": "Contrastive loss",
    "generation_loss": "Generation loss",
    "matching_loss": "Matching loss",
    "masked_text_loss": "Masked text loss",
    "masked_image_loss": "Masked image loss",
    "regression_loss": "Regression loss",
    "held_out.loss": "Held-out loss",
    "held_out.retrieval_r1": "Held-out retrieval, recall at 1",
    "held_out.retrieval_r5": "Held-out retrieval, recall at 5",
    "held_out.knn_accuracy": "Held-out nearest neighbours",
    "in_batch_accuracy": "In-batch accuracy",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "logit_scale": "Logit scale",
    "images_per_s": "Images per second",
    "tokens_per_s": "Tokens per second",
    "mfu": "Utilisation (MFU)",
    "data_wait": "Share of time waiting for data",
    "memory_gib": "Peak memory, GiB",
    "rss_gib": "Memory of the process, GiB",
    "cpu_cores": "CPU cores in use",
}
COST_LABELS = {
    "seconds": "seconds of training",
    "images_seen": "images seen",
    "tokens_seen": "tokens seen",
    "flops": "floating-point operations",
}
LOG_AXIS_RATIO = 8.0  # costs that differ by more than this factor get a logarithmic axis
LETTER_WIDTH, LINE_HEIGHT = 2.4, 6.5  # of a label, in percent of the plot
NO_VALUES = '<p class="lcl-note">Waiting for the first figures.</p>'
NO_RECORD = '<p class="lcl-note">The run recorded no value of it.</p>'


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers in [low, high]."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / count
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def subsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` points, evenly spaced, with the first and the last."""
    if len(points) <= limit:
        return list(points)
    stride = (len(points) - 1) / (limit - 1)
    return [points[round(i * stride)] for i in range(limit)]


def moving_average(points: Sequence[Point], weight: float = 0.6) -> list[Point]:
    """Exponential moving average with bias correction."""
    out, mean, norm = [], 0.0, 0.0
    for x, y in points:
        mean = weight * mean + (1 - weight) * y
        norm = weight * norm + (1 - weight)
        out.append((x, mean / norm))
    return out


def line_chart(
    title: str, points: Sequence[Point], colour: int, held_out: Sequence[Point] = (), *, ended: bool = False
) -> str:
    """One curve over steps: raw, averaged, latest value as text; dashed: of held-out data. ``ended``: no more come."""
    good = [(x, y) for x, y in points if math.isfinite(y)]
    last = number(good[-1][1]) if good else "…"
    dashed = subsample([(x, y) for x, y in held_out if math.isfinite(y)])
    hint = f"<em>held out {esc(number(dashed[-1][1]))}</em>" if dashed else ""
    head = f"<figcaption><span>{esc(title)}</span>{hint}<b>{esc(last)}</b></figcaption>"
    if ended and len(good) == 1:
        at = f"{number(good[0][1])} at step {number(good[0][0])}"
        return (
            f'<figure class="lcl-chart lcl-colour-{colour}">{head}<div class="lcl-plot lcl-plot--point" role="img" '
            f'aria-label="{esc(f"{title}: {at}, the only value")}"><i aria-hidden="true"></i><span>{esc(at)}</span>'
            "</div></figure>"
        )
    if len(good) < 2:
        return f'<figure class="lcl-chart">{head}{NO_RECORD if ended else NO_VALUES}</figure>'
    raw, mean = subsample(good), subsample(moving_average(good))
    frame = plot_frame([*raw, *dashed])
    lines = (
        f'<path class="lcl-line lcl-line--raw" d="{svg_path(raw, frame)}"/>'
        f'<path class="lcl-line" d="{svg_path(mean, frame)}"/>'
    )
    (first_x, first_y), (last_x, _) = good[0], good[-1]
    words = f"{title}: {number(first_y)} at step {number(first_x)}, {last} at step {number(last_x)}"
    if dashed:
        lines += f'<path class="lcl-line lcl-line--held-out" d="{svg_path(dashed, frame)}"/>'
        words += f"; of held-out data {number(dashed[-1][1])} at step {number(dashed[-1][0])}"
    data = ";".join(f"{x:g},{y:.5g}" for x, y in subsample(good, 200))
    low_x, high_x, low_y, high_y = frame
    return (
        f'<figure class="lcl-chart lcl-colour-{colour}">{head}<div class="lcl-plot" data-points="{data}" '
        f'data-frame="{low_x:g},{high_x:g},{low_y:g},{high_y:g}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{esc(words)}">{lines}</svg>'
        f"{x_axis(frame, whole=True)}</div></figure>"
    )


def plot_frame(points: Sequence[Point]) -> Frame:
    """Limits of x, and of y with a margin."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return min(xs), max(max(xs), min(xs) + 1), low - pad, high + pad


def svg_path(points: Sequence[Point], frame: Frame) -> str:
    """Path data of a line, in a view box of 100 by 100."""
    low_x, high_x, low_y, high_y = frame
    positions = (
        f"{100 * (x - low_x) / (high_x - low_x):.2f} {100 * (high_y - y) / (high_y - low_y):.2f}" for x, y in points
    )
    return "M" + "L".join(positions)


def y_axis(frame: Frame) -> str:
    """Tick labels and grid lines of the y axis."""
    _, _, low, high = frame
    positions = ((100 * (high - y) / (high - low), number(y, 3)) for y in ticks(low, high, 3))
    return "".join(
        f'<i class="lcl-rule" style="top:{top:.2f}%"></i>'
        f'<span class="lcl-tick lcl-tick--y" style="top:{top:.2f}%">{y}</span>'
        for top, y in positions
    )


def x_axis(frame: Frame, *, whole: bool = False) -> str:
    """Tick labels of the x axis. ``whole``: it counts steps, of which there are no fractions."""
    low, high, _, _ = frame
    shown = [x for x in ticks(low, high, 4) if not whole or float(x).is_integer()]
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (x - low) / (high - low):.2f}%">{number(x, 3)}</span>'
        for x in shown
    )


@dataclass(frozen=True)
class RunSeries:
    """Curve of one run; ``state``: of the run."""

    name: str
    state: str
    points: Sequence[Point]


def metric_value(line: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a line; a missing loss is the sum of its terms."""
    value = line.get(metric)
    if value is None and metric == "loss":
        own = {name: term for name, term in line.items() if not name.startswith("held_out.")}
        terms = [term for name, term in own.items() if name.endswith("_loss") and _is_number(term)]
        value = sum(terms) if terms else None
    return value if _is_number(value) else None


def metric_points(lines: Sequence[Mapping[str, Any]], metric: str, axis: str) -> list[Point]:
    """(axis, metric) of the lines in which both are finite numbers."""
    pairs = ((line.get(axis), metric_value(line, metric)) for line in lines)
    return [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]


def overlay_chart(metric: str, axis: str, series: Sequence[RunSeries]) -> str:
    """The first ``MAX_SERIES`` curves; a run without values is only in the legend."""
    return _overlay_figure(metric, axis, series[:MAX_SERIES], _series_legend(series[:MAX_SERIES]), tall=True)


def overlay_panels(axis: str, panels: Mapping[str, Sequence[RunSeries]]) -> str:
    """A small overlay of the same runs for each metric, below one legend; metrics without a curve are named below."""
    runs = next(iter(panels.values()))[:MAX_SERIES]
    curves = {metric: series[:MAX_SERIES] for metric, series in panels.items()}
    drawn = [metric for metric, series in curves.items() if any(len(run.points) > 1 for run in series)]
    absent = ", ".join(METRIC_LABELS.get(metric, metric) for metric in curves if metric not in drawn)
    figures = "".join(_overlay_figure(metric, axis, curves[metric], _latest_values(curves[metric])) for metric in drawn)
    hint = f'<p class="lcl-note">No curve yet: {esc(absent)}.</p>' if absent else ""
    legend = _series_legend(runs, values=False)
    return f'<section class="lcl-panels">{legend}<div class="lcl-charts">{figures}</div>{hint}</section>'


def _overlay_figure(metric: str, axis: str, series: Sequence[RunSeries], below: str, *, tall: bool = False) -> str:
    title, over = METRIC_LABELS.get(metric, metric), AXIS_LABELS.get(axis, axis).lower()
    drawn = [(index, run) for index, run in enumerate(series) if len(run.points) > 1]
    plot = _overlay_plot(title, over, drawn, tall=tall, smooth=metric not in _EXACT) if drawn else NO_VALUES
    return (
        f'<figure class="lcl-chart lcl-overlay"><figcaption><span>{esc(title)}</span><em>over {esc(over)}</em>'
        f"</figcaption>{plot}{below}</figure>"
    )


def _overlay_plot(title: str, over: str, drawn: Sequence[tuple[int, RunSeries]], *, tall: bool, smooth: bool) -> str:
    last = max(run.points[-1][0] for _, run in drawn)
    settled = [point for _, run in drawn for point in run.points if point[0] >= TRANSIENT_SHARE * last]
    _, right, bottom, top = plot_frame(settled)
    frame = (0.0, right, bottom, top)
    raw = smooth and len(drawn) <= _MAX_RAW_SERIES
    lines = ""
    for index, run in drawn:
        if raw:
            lines += f'<path class="lcl-line lcl-line--raw lcl-o{index}" d="{svg_path(subsample(run.points), frame)}"/>'
        points = subsample(moving_average(run.points) if smooth else run.points)
        lines += f'<path class="lcl-line lcl-o{index}" d="{svg_path(points, frame)}"/>'
    words = "; ".join(
        f"{run.name}: {number(run.points[0][1])} at {number(run.points[0][0])}, "
        f"{number(run.points[-1][1])} at {number(run.points[-1][0])}"
        for _, run in drawn
    )
    data = []
    for index, run in drawn:
        points = [(x, float(f"{y:.5g}")) for x, y in subsample(run.points, _HOVER_POINTS)]
        data.append({"name": run.name, "place": index, "points": points})
    return (
        f'<div class="lcl-plot{" lcl-plot--tall" if tall else ""}" data-series="{esc(json.dumps(data))}" '
        f'data-over="{esc(over)}" '
        f'data-frame="{",".join(f"{edge:g}" for edge in frame)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{esc(f"{title} over {over}. {words}")}">{lines}</svg>{x_axis(frame)}</div>'
    )


def _series_legend(series: Sequence[RunSeries], *, values: bool = True) -> str:
    rows = "".join(
        f"<li>{_legend_line(index)}<span>{esc(run.name)}</span>{badge(run.state)}"
        f"{f'<b>{esc(_latest_value(run.points))}</b>' if values else ''}</li>"
        for index, run in enumerate(series)
    )
    return f'<ul class="lcl-overlay__key" aria-label="Runs in the chart">{rows}</ul>'


def _latest_values(series: Sequence[RunSeries]) -> str:
    """The last value of each curve, beside its line; the names are in the legend of all panels."""
    rows = "".join(
        f'<li title="{esc(run.name)}">{_legend_line(index)}<b>{esc(_latest_value(run.points))}</b></li>'
        for index, run in enumerate(series)
    )
    return f'<ul class="lcl-overlay__values" aria-label="Last values, in the order of the runs">{rows}</ul>'


def _legend_line(index: int) -> str:
    return f'<svg viewBox="0 0 30 8" aria-hidden="true"><path class="lcl-line lcl-o{index}" d="M0 4H30"/></svg>'


def _latest_value(points: Sequence[Point]) -> str:
    return number(points[-1][1]) if points else "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def row_colour_class(index: int) -> str:
    """CSS class, and name of the CSS variable, of a row's colour."""
    return f"lcl-c{index % PALETTE_SIZE}"


def row_label(row: Json) -> str:
    """Labels of a row of the table."""
    return " ".join(row["labels"].values()) or "all"


def cost_chart(table: Json, head: str) -> str:
    """A metric over its cost: mean and deviation of each row, Pareto front."""
    compute = table["compute"]
    rows = [
        (index, row, row["figures"][head], row["compute"][compute])
        for index, row in enumerate(table["rows"])
        if head in row["figures"] and row["compute"][compute] is not None
    ]
    title = f"{head} over {COST_LABELS[compute]}"
    if not rows:
        return _figure(title, NO_VALUES)
    costs = [cost for *_, cost in rows]
    log = min(costs) > 0 and max(costs) > LOG_AXIS_RATIO * min(costs)
    at = {index: (math.log10(cost) if log else cost, figure["mean"]) for index, _, figure, cost in rows}
    bars = [(at[index][0], figure["mean"], figure["sd"] or 0.0) for index, _, figure, _ in rows]
    ends = [(x, mean + sign * sd) for x, mean, sd in bars for sign in (-1, 1)]
    left, right, bottom, top = plot_frame([*at.values(), *ends])
    room = 0.07 * (right - left)
    frame = (left - room, right + room, bottom, top)
    front = _staircase([at[index] for index in table["pareto"][head] if index in at])
    lines = f'<path class="lcl-line lcl-line--front" d="{svg_path(front, frame)}"/>'
    wide = right - left + 2 * room
    spots = {
        index: (100 * (x - left + room) / wide, 100 * (top - y) / (top - bottom)) for index, (x, y) in at.items()
    }  # in percent, from the left and top of the plot
    sides = label_positions([(*spots[index], row_label(row)) for index, row, *_ in rows])
    points = "".join(
        _cost_point(spots[index], side, frame, index, row, figure, cost, head)
        for (index, row, figure, cost), side in zip(rows, sides, strict=True)
    )
    words = ", ".join(f"{row_label(row)} {number(figure['mean'], 3)}" for _, row, figure, _ in rows)
    plot = _study_plot(f"{title}: {words}", frame, lines, points, _log_axis(frame) if log else x_axis(frame))
    return _figure(title, plot, "dashed: Pareto front")


def curves_chart(curves: Json, title: str) -> str:
    """Training curve of every row, mean over its seeds."""
    drawn = [
        (index, [(point[0], point[1]) for point in row["points"] if math.isfinite(point[1])])
        for index, row in enumerate(curves["rows"])
    ]
    drawn = [(index, points) for index, points in drawn if len(points) > 1]
    if not drawn:
        return _figure(title, NO_VALUES)
    last = max(points[-1][0] for _, points in drawn)
    settled = [point for _, points in drawn for point in points if point[0] >= TRANSIENT_SHARE * last]
    left, right, bottom, top = plot_frame(settled)
    frame = (0.0, max(right, left + 1), bottom, top)
    lines = "".join(
        f'<path class="lcl-line" style="stroke:var(--{row_colour_class(index)})" '
        f'd="{svg_path(subsample(points, 200), frame)}">'
        f"<title>{esc(row_label(curves['rows'][index]))}</title></path>"
        for index, points in drawn
    )
    ends = ", ".join(f"{row_label(curves['rows'][index])} {number(points[-1][1], 3)}" for index, points in drawn)
    return _figure(title, _study_plot(f"{title}, at the end: {ends}", frame, lines, "", x_axis(frame)), "over steps")


def _staircase(points: Sequence[Point]) -> list[Point]:
    """A step function through the points."""
    line: list[Point] = []
    for x, y in points:
        line += [(x, line[-1][1]), (x, y)] if line else [(x, y)]
    return line


def label_positions(spots: Sequence[tuple[float, float, str]]) -> list[str]:
    """Right, left, above, below or none for each (x, y in percent of the plot, label): none overlaps another."""
    occupied = [(x - 2.5, y - 2.5, x + 2.5, y + 2.5) for x, y, _ in spots]
    sides = []
    for x, y, name in spots:
        boxes = {side: _label_box(x, y, name, side) for side in ("right", "left", "above", "below")}
        side = next((side for side, box in boxes.items() if _is_free(box, occupied)), "none")
        if side != "none":
            occupied.append(boxes[side])
        sides.append(side)
    return sides


def _label_box(x: float, y: float, name: str, side: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a label."""
    wide, high = LETTER_WIDTH * len(name), LINE_HEIGHT
    left = {"right": x + 3.5, "left": x - 3.5 - wide}.get(side, x - wide / 2)
    top = {"above": y - 3.5 - high, "below": y + 3.5}.get(side, y - high / 2)
    return left, top, left + wide, top + high


def _is_free(box: tuple[float, float, float, float], occupied: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = box
    inside = left >= -2 and right <= 102 and top >= -2 and bottom <= 102
    apart = (right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top for other in occupied)
    return inside and all(apart)


def _cost_point(
    spot: Point, side: str, frame: Frame, which: int, row: Json, figure: Json, cost: float, head: str
) -> str:
    (x, y), (_, _, bottom, top) = spot, frame
    tall = 200 * (figure["sd"] or 0.0) / (top - bottom)
    spread = "" if figure["sd"] is None else f" ± {number(figure['sd'], 2)}"
    words = f"{row_label(row)}: {head} {number(figure['mean'], 3)}{spread} at {number(float(f'{cost:.3g}'))}"
    name = "" if side == "none" else f'<span class="lcl-{side}">{esc(row_label(row))}</span>'
    return (
        f'<i class="lcl-whisker {row_colour_class(which)}" '
        f'style="left:{x:.2f}%;top:{y - tall / 2:.2f}%;height:{tall:.2f}%">'
        f'</i><i class="lcl-mark-point {row_colour_class(which)}" style="left:{x:.2f}%;top:{y:.2f}%" '
        f'title="{esc(words)}">{name}</i>'
    )


def _log_axis(frame: Frame) -> str:
    """Tick labels of a logarithmic x axis: 1, 2 and 5 of every order of magnitude."""
    left, right = frame[:2]
    exponents = range(math.floor(left), math.ceil(right) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    shown = [value for value in values if left <= math.log10(value) <= right]
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (math.log10(value) - left) / (right - left):.2f}%">'
        f"{number(value) if value < 1e6 else f'{value:.0e}'.replace('e+0', 'e').replace('e+', 'e')}</span>"
        for value in shown
    )


def _study_plot(words: str, frame: Frame, lines: str, points: str, axis: str) -> str:
    return (
        f'<div class="lcl-plot lcl-plot--tall" role="img" aria-label="{esc(words)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>{points}{axis}</div>'
    )


def _figure(title: str, inside: str, hint: str = "") -> str:
    note = f"<em>{esc(hint)}</em>" if hint else ""
    return f'<figure class="lcl-chart"><figcaption><span>{esc(title)}</span>{note}</figcaption>{inside}</figure>'
