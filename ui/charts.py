"""Charts as inline SVG, in the colours of the page; no script and no plotting library.

Curve of one metric, curves of several runs, cost and training curves of a study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ui.figures import is_share, metric_text, number
from ui.html import badge, esc

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
NO_VALUES = '<p class="lcl-note">Waiting for the first figures.</p>'
NO_RECORD = '<p class="lcl-note">The run recorded no value of it.</p>'


def ticks(low: float, high: float, least: int = 3) -> list[float]:
    """At least ``least`` round numbers in [low, high], and few more."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    size = 10 ** math.floor(math.log10(span))
    for factor in (5, 2.5, 2, 1, 0.5, 0.25):
        first, last = math.ceil(low / (size * factor) - 1e-9), math.floor(high / (size * factor) + 1e-9)
        if last - first + 1 >= least:
            break
    return [round(size * factor * place, 12) for place in range(first, last + 1)]


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
    metric: str, points: Sequence[Point], colour: int, held_out: Sequence[Point] = (), *, ended: bool = False
) -> str:
    """One curve over steps: raw, averaged, latest value as text; dashed: of held-out data. ``ended``: no more come."""
    title = METRIC_LABELS.get(metric, metric)
    good = [(x, y) for x, y in points if math.isfinite(y)]
    last = metric_text(metric, good[-1][1]) if good else "…"
    dashed = subsample([(x, y) for x, y in held_out if math.isfinite(y)])
    hint = f"<em>held out {metric_text(metric, dashed[-1][1])}</em>" if dashed else ""
    head = f"<figcaption><span>{esc(title)}</span>{hint}<b>{last}</b></figcaption>"
    if ended and len(good) == 1:
        only = f"The only value: {last} at step {number(good[0][0])}."
        return f'<figure class="lcl-chart">{head}<p class="lcl-note">{only}</p></figure>'
    if len(good) < 2:
        return f'<figure class="lcl-chart">{head}{NO_RECORD if ended else NO_VALUES}</figure>'
    raw, drawn = subsample(good), subsample(smoothed(metric, good))
    frame = plot_frame([*raw, *dashed])
    lines = f'<path class="lcl-line" d="{svg_path(drawn, frame)}"/>'
    if raw != drawn:
        lines = f'<path class="lcl-line lcl-line--raw" d="{svg_path(raw, frame)}"/>{lines}'
    (first_x, first_y), (last_x, _) = good[0], good[-1]
    words = f"{title}: {metric_text(metric, first_y)} at step {number(first_x)}, {last} at step {number(last_x)}"
    if dashed:
        lines += f'<path class="lcl-line lcl-line--held-out" d="{svg_path(dashed, frame)}"/>'
        words += f"; of held-out data {metric_text(metric, dashed[-1][1])} at step {number(dashed[-1][0])}"
    data = ";".join(f"{x:g},{y:.5g}" for x, y in subsample(good, _HOVER_POINTS))
    plot = _plot(f'data-points="{data}"', words, frame, lines, metric, "steps")
    return f'<figure class="lcl-chart lcl-colour-{colour}">{head}{plot}</figure>'


def smoothed(metric: str, points: Sequence[Point]) -> list[Point]:
    """A moving average; a peak is the highest so far, and a metric without noise is as it was recorded."""
    if metric.startswith("memory"):
        highest = accumulate((y for _, y in points), max)
        return [(x, y) for (x, _), y in zip(points, highest, strict=True)]
    exact = metric in _EXACT or metric.startswith("held_out.")
    return list(points) if exact else moving_average(points)


def _plot(data: str, words: str, frame: Frame, lines: str, metric: str, over: str, style: str = "") -> str:
    edges = ",".join(f"{edge:g}" for edge in frame)
    return (
        f'<div class="lcl-plot{style}" {data} data-frame="{edges}">{y_axis(frame, metric)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{esc(words)}">{lines}</svg>'
        f'{x_axis(frame)}<span class="lcl-tick lcl-tick--over">{esc(over)}</span></div>'
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


def y_axis(frame: Frame, metric: str) -> str:
    """Tick labels and grid lines of the y axis, in the format of the metric."""
    _, _, low, high = frame
    values = ticks(low, high)
    if is_share(metric) or metric.endswith("lr"):
        texts = [metric_text(metric, y) for y in values]
    else:
        texts = [number(y) if abs(y) < 10 or float(y).is_integer() else f"{y:,.1f}" for y in values]
    places = [100 * (high - y) / (high - low) for y in values]
    return "".join(
        f'<i class="lcl-rule" style="top:{top:.2f}%"></i>'
        f'<span class="lcl-tick lcl-tick--y" style="top:{top:.2f}%">{text.replace(".0 %", " %")}</span>'
        for top, text in zip(places, texts, strict=True)
    )


def x_axis(frame: Frame) -> str:
    """Tick labels of the x axis."""
    low, high, _, _ = frame
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (x - low) / (high - low):.2f}%">{number(x)}</span>'
        for x in ticks(low, high)
        if high < 3 or float(x).is_integer()
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
    return _overlay_figure(metric, axis, series[:MAX_SERIES], _series_legend(series[:MAX_SERIES], metric), tall=True)


def overlay_panels(axis: str, panels: Mapping[str, Sequence[RunSeries]]) -> str:
    """A small overlay of the same runs for each metric, below one legend; metrics without a curve are named below."""
    runs = next(iter(panels.values()))[:MAX_SERIES]
    curves = {metric: series[:MAX_SERIES] for metric, series in panels.items()}
    drawn = [metric for metric, series in curves.items() if any(len(run.points) > 1 for run in series)]
    absent = ", ".join(METRIC_LABELS.get(metric, metric) for metric in curves if metric not in drawn)
    figures = "".join(
        _overlay_figure(metric, axis, curves[metric], _latest_values(curves[metric], metric)) for metric in drawn
    )
    hint = f'<p class="lcl-note">No curve yet: {esc(absent)}.</p>' if absent else ""
    legend = _series_legend(runs)
    return f'<section class="lcl-panels">{legend}<div class="lcl-charts">{figures}</div>{hint}</section>'


def _overlay_figure(metric: str, axis: str, series: Sequence[RunSeries], below: str, *, tall: bool = False) -> str:
    title, over = METRIC_LABELS.get(metric, metric), AXIS_LABELS.get(axis, axis).lower()
    drawn = [(index, run) for index, run in enumerate(series) if len(run.points) > 1]
    plot = _overlay_plot(metric, f"{title} over {over}", over, drawn, tall=tall) if drawn else NO_VALUES
    return (
        f'<figure class="lcl-chart lcl-overlay"><figcaption><span>{esc(title)}</span><em>over {esc(over)}</em>'
        f"</figcaption>{plot}{below}</figure>"
    )


def _overlay_plot(metric: str, title: str, over: str, drawn: Sequence[tuple[int, RunSeries]], *, tall: bool) -> str:
    last = max(run.points[-1][0] for _, run in drawn)
    settled = [point for _, run in drawn for point in run.points if point[0] >= TRANSIENT_SHARE * last]
    _, right, bottom, top = plot_frame(settled)
    frame = (0.0, right, bottom, top)
    lines, words, data = "", [], []
    for index, run in drawn:
        points = subsample(smoothed(metric, run.points))
        if len(drawn) <= _MAX_RAW_SERIES and points != subsample(run.points):
            lines += f'<path class="lcl-line lcl-line--raw lcl-o{index}" d="{svg_path(subsample(run.points), frame)}"/>'
        lines += f'<path class="lcl-line lcl-o{index}" d="{svg_path(points, frame)}"/>'
        ends = (f"{metric_text(metric, y)} at {number(x)}" for x, y in (run.points[0], run.points[-1]))
        words.append(f"{run.name}: {', '.join(ends)}")
        hovered = [(x, float(f"{y:.5g}")) for x, y in subsample(run.points, _HOVER_POINTS)]
        data.append({"name": run.name, "place": index, "points": hovered})
    attributes = f'data-series="{esc(json.dumps(data))}" data-over="{esc(over)}"'
    style = " lcl-plot--tall" if tall else ""
    return _plot(attributes, f"{title}. {'; '.join(words)}", frame, lines, metric, over, style)


def _series_legend(series: Sequence[RunSeries], metric: str = "") -> str:
    """Names and states of the runs; with a ``metric`` its last values."""
    rows = "".join(
        f"<li>{_legend_line(index)}<span>{esc(run.name)}</span>{badge(run.state)}"
        f"{f'<b>{_latest_value(run, metric)}</b>' if metric else ''}</li>"
        for index, run in enumerate(series)
    )
    return f'<ul class="lcl-overlay__key" aria-label="Runs in the chart">{rows}</ul>'


def _latest_values(series: Sequence[RunSeries], metric: str) -> str:
    """The last value of each curve, beside its line; the names are in the legend of all panels."""
    rows = "".join(
        f'<li title="{esc(run.name)}">{_legend_line(index)}<b>{_latest_value(run, metric)}</b></li>'
        for index, run in enumerate(series)
    )
    return f'<ul class="lcl-overlay__values" aria-label="Last values, in the order of the runs">{rows}</ul>'


def _latest_value(run: RunSeries, metric: str) -> str:
    return metric_text(metric, run.points[-1][1]) if run.points else "…"


def _legend_line(index: int) -> str:
    return f'<svg viewBox="0 0 30 8" aria-hidden="true"><path class="lcl-line lcl-o{index}" d="M0 4H30"/></svg>'


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
    ends = [
        (at[index][0], figure["mean"] + sign * (figure["sd"] or 0.0))
        for index, _, figure, _ in rows
        for sign in (-1, 1)
    ]
    left, right, bottom, top = plot_frame(ends)
    room = 0.07 * (right - left)
    frame = (left - room, right + room, bottom, top)
    front = _staircase([at[index] for index in table["pareto"][head] if index in at])
    lines = f'<path class="lcl-line lcl-line--front" d="{svg_path(front, frame)}"/>'
    points = "".join(_cost_point(at[index], frame, index, row, head, cost) for index, row, _, cost in rows)
    words = ", ".join(f"{row_label(row)} {metric_text(head, figure['mean'])}" for _, row, figure, _ in rows)
    plot = _study_plot(f"{title}: {words}", frame, lines, points, _log_axis(frame) if log else x_axis(frame), head)
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
    ends = ", ".join(
        f"{row_label(curves['rows'][index])} {metric_text(title, points[-1][1])}" for index, points in drawn
    )
    return _figure(
        title, _study_plot(f"{title}, at the end: {ends}", frame, lines, "", x_axis(frame), title), "over steps"
    )


def _staircase(points: Sequence[Point]) -> list[Point]:
    """A step function through the points."""
    line: list[Point] = []
    for x, y in points:
        line += [(x, line[-1][1]), (x, y)] if line else [(x, y)]
    return line


def _cost_point(spot: Point, frame: Frame, index: int, row: Json, head: str, cost: float) -> str:
    """A point with its deviation; its name and values are the tooltip, its colour that of the row of the table."""
    left, right, bottom, top = frame
    x, y = 100 * (spot[0] - left) / (right - left), 100 * (top - spot[1]) / (top - bottom)
    figure, colour = row["figures"][head], row_colour_class(index)
    tall = 200 * (figure["sd"] or 0.0) / (top - bottom)
    spread = "" if figure["sd"] is None else f" ± {metric_text(head, figure['sd'])}"
    words = f"{row_label(row)}: {head} {metric_text(head, figure['mean'])}{spread} at {number(cost)}"
    whisker = f"left:{x:.2f}%;top:{y - tall / 2:.2f}%;height:{tall:.2f}%"
    return (
        f'<i class="lcl-whisker {colour}" style="{whisker}"></i><i class="lcl-mark-point {colour}" '
        f'style="left:{x:.2f}%;top:{y:.2f}%" title="{esc(words)}"></i>'
    )


def _log_axis(frame: Frame) -> str:
    """Tick labels of a logarithmic x axis: 1, 2 and 5 of every order of magnitude."""
    left, right = frame[:2]
    exponents = range(math.floor(left), math.ceil(right) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    shown = [value for value in values if left <= math.log10(value) <= right]
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (math.log10(value) - left) / (right - left):.2f}%">'
        f"{number(value)}</span>"
        for value in shown
    )


def _study_plot(words: str, frame: Frame, lines: str, points: str, axis: str, metric: str) -> str:
    return (
        f'<div class="lcl-plot lcl-plot--tall" role="img" aria-label="{esc(words)}">{y_axis(frame, metric)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>{points}{axis}</div>'
    )


def _figure(title: str, inside: str, hint: str = "") -> str:
    note = f"<em>{esc(hint)}</em>" if hint else ""
    return f'<figure class="lcl-chart"><figcaption><span>{esc(title)}</span>{note}</figcaption>{inside}</figure>'
