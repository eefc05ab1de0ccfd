"""Charts as inline SVG, in the colours of the page; no script and no plotting library.

Curve of one metric, map of a collection, curves of several runs, cost and training curves of a study.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ui.html import badge, esc, format_number, item_url

MAX_POINTS = 400
PALETTE_SIZE = 11  # the palette in style.css; further labels share one grey
Point = tuple[float, float]
Frame = tuple[float, float, float, float]  # left, right, bottom, top


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers inside [low, high], about ``wanted`` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    rough = span / wanted
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def subsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` points, evenly spaced, the last one always among them."""
    if len(points) <= limit:
        return list(points)
    stride = (len(points) - 1) / (limit - 1)
    return [points[round(i * stride)] for i in range(limit)]


def moving_average(points: Sequence[Point], weight: float = 0.6) -> list[Point]:
    """Exponential moving average without the pull towards zero at the start."""
    out, mean, norm = [], 0.0, 0.0
    for x, y in points:
        mean = weight * mean + (1 - weight) * y
        norm = weight * norm + (1 - weight)
        out.append((x, mean / norm))
    return out


def line_chart(title: str, points: Sequence[Point], colour: int) -> str:
    """One curve over steps: the raw values pale, their moving average on top, the latest value in words."""
    good = [(x, y) for x, y in points if math.isfinite(y)]
    last = format_number(good[-1][1]) if good else "…"
    head = f"<figcaption><span>{esc(title)}</span><b>{esc(last)}</b></figcaption>"
    if len(good) < 2:
        return f'<figure class="lcl-chart">{head}<p class="lcl-note">Waiting for the first figures.</p></figure>'
    raw, mean = subsample(good), subsample(moving_average(good))
    frame = plot_frame(raw)
    lines = (
        f'<path class="lcl-line lcl-line--raw" d="{svg_path(raw, frame)}"/>'
        f'<path class="lcl-line" d="{svg_path(mean, frame)}"/>'
    )
    words = f"{title}: {format_number(good[0][1])} at step {format_number(good[0][0])}, {last} at step {format_number(good[-1][0])}"
    data = ";".join(f"{x:g},{y:.5g}" for x, y in subsample(good, 200))
    low_x, high_x, low_y, high_y = frame
    return (
        f'<figure class="lcl-chart lcl-colour-{colour}">{head}<div class="lcl-plot" data-points="{data}" '
        f'data-frame="{low_x:g},{high_x:g},{low_y:g},{high_y:g}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{esc(words)}">{lines}</svg>'
        f"{x_axis(frame)}</div></figure>"
    )


def scatter_map(collection: str, points: Sequence[Mapping[str, Any]], label: str | None) -> str:
    """A 2-D map; ``points``: {"id", "x", "y", "caption", "labels"}, coloured by one label, unlabelled ones below."""
    names = [str(point["labels"].get(label, "")) if label else "" for point in points]
    counts = Counter(name for name in names if name)
    ranked = [name for name, _ in counts.most_common(PALETTE_SIZE)]
    colour = {name: i for i, name in enumerate(ranked)}
    left, top, width, height = _view_box(points)
    radius = 0.008 * max(width, height)
    drawn = sorted(zip(points, names, strict=True), key=lambda pair: bool(pair[1]))
    dots = "".join(_map_point(collection, point, name, colour, radius) for point, name in drawn)
    words = f"Map of {len(points)} pictures" + (f", coloured by {label}" if label else "")
    return (
        f'<div class="lcl-map"><div class="lcl-map__stage"><svg role="img" aria-label="{esc(words)}" '
        f'viewBox="{left:.4f} {top:.4f} {width:.4f} {height:.4f}">{dots}</svg><div class="lcl-tip" hidden></div></div>'
        f"{_map_legend(ranked, counts, len(points))}</div>"
    )


def _view_box(points: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, float]:
    """Left, top, width and height that hold all points with a margin; y grows downwards in SVG."""
    xs = [point["x"] for point in points]
    ys = [-point["y"] for point in points]
    margin = 0.03 * max(max(xs) - min(xs), max(ys) - min(ys), 1e-3)
    return min(xs) - margin, min(ys) - margin, max(xs) - min(xs) + 2 * margin, max(ys) - min(ys) + 2 * margin


def _map_point(collection: str, point: Mapping[str, Any], name: str, colour: Mapping[str, int], radius: float) -> str:
    which = colour.get(name, PALETTE_SIZE)
    return (
        f'<circle class="lcl-c{which}" cx="{point["x"]:.4f}" cy="{-point["y"]:.4f}" r="{radius:.4f}" data-c="{which}" '
        f'data-name="{esc(point["caption"])}" data-label="{esc(name)}" '
        f'data-src="{esc(item_url(collection, point["id"]))}"/>'
    )


def _map_legend(ranked: Sequence[str], counts: Mapping[str, int], total: int) -> str:
    if not ranked:
        return ""
    entries = [(i, name, counts[name]) for i, name in enumerate(ranked)]
    if rest := total - sum(count for _, _, count in entries):
        entries.append((PALETTE_SIZE, "others", rest))
    rows = "".join(
        f'<li><button type="button" data-legend="{i}" aria-pressed="false"><i class="lcl-c{i}" aria-hidden="true"></i>'
        f"<span>{esc(name)}</span><em>{count:,}</em></button></li>"
        for i, name, count in entries
    )
    return f'<ul class="lcl-legend" aria-label="Labels; choose one to bring it out">{rows}</ul>'


def plot_frame(points: Sequence[Point]) -> Frame:
    """Lowest and highest x, and y with room above and below."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return min(xs), max(max(xs), min(xs) + 1), low - pad, high + pad


def svg_path(points: Sequence[Point], frame: Frame) -> str:
    """A line in a view box of 100 by 100."""
    low_x, high_x, low_y, high_y = frame
    places = (
        f"{100 * (x - low_x) / (high_x - low_x):.2f} {100 * (high_y - y) / (high_y - low_y):.2f}" for x, y in points
    )
    return "M" + "L".join(places)


def y_axis(frame: Frame) -> str:
    """Numbers and rules beside a plot."""
    _, _, low, high = frame
    places = ((100 * (high - y) / (high - low), format_number(y, 3)) for y in ticks(low, high, 3))
    return "".join(
        f'<i class="lcl-rule" style="top:{top:.2f}%"></i>'
        f'<span class="lcl-tick lcl-tick--y" style="top:{top:.2f}%">{y}</span>'
        for top, y in places
    )


def x_axis(frame: Frame) -> str:
    """Numbers below a plot."""
    low, high, _, _ = frame
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (x - low) / (high - low):.2f}%">{format_number(x, 3)}</span>'
        for x in ticks(low, high, 4)
    )


def vector_strip(vector: Sequence[float]) -> str:
    """A vector as a strip: one bar a number, above the middle when positive, below when negative."""
    peak = max((abs(value) for value in vector), default=0.0) or 1.0
    bars = "".join(
        f"M{i + 0.5} 10V{10 - 10 * value / peak:.2f}" for i, value in enumerate(vector) if abs(value) > 0.005 * peak
    )
    return (
        f'<svg class="lcl-strip" viewBox="0 0 {max(1, len(vector))} 20" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}"/></svg>'
    )


MAX_SERIES = 6  # colours in style.css (--lcl-o0 …), told apart with any colour vision, and by their dashes
TRANSIENT_SHARE = 0.05  # of the longest curve: its steep beginning does not decide what is seen of the rest
_MAX_RAW_SERIES = 3  # up to so many the raw values are shown too
_HOVER_POINTS = 200  # of a line, for the value under the cursor

AXIS_LABELS = {"step": "Steps", "images_seen": "Pictures seen"}
METRIC_LABELS = {
    "loss": "Loss",
    "contrastive_loss": "Contrastive loss",
    "generation_loss": "Generation loss",
    "matching_loss": "Matching loss",
    "masked_text_loss": "Masked text loss",
    "masked_image_loss": "Masked image loss",
    "regression_loss": "Regression loss",
    "in_batch_accuracy": "In-batch accuracy",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "logit_scale": "Logit scale",
    "images_per_s": "Pictures per second",
    "tokens_per_s": "Tokens per second",
    "mfu": "Utilisation (MFU)",
    "data_wait": "Share of time waiting for data",
    "memory_gib": "Peak memory, GiB",
}


@dataclass(frozen=True)
class RunSeries:
    """One run's line; ``state`` is the run's."""

    name: str
    state: str
    points: Sequence[Point]


def metric_value(line: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a line; the loss is the sum of its parts where the line does not say it."""
    found = line.get(metric)
    if found is None and metric == "loss":
        parts = [value for name, value in line.items() if name.endswith("_loss") and _is_number(value)]
        found = sum(parts) if parts else None
    return found if _is_number(found) else None


def metric_points(lines: Sequence[Mapping[str, Any]], metric: str, axis: str) -> list[Point]:
    """Where both are numbers."""
    pairs = ((line.get(axis), metric_value(line, metric)) for line in lines)
    return [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]


def overlay_chart(metric: str, axis: str, series: Sequence[RunSeries]) -> str:
    """At most ``LINES`` of them, in the order given; a run without figures yet stands in the legend alone."""
    series = series[:MAX_SERIES]
    title, over = METRIC_LABELS.get(metric, metric), AXIS_LABELS.get(axis, axis).lower()
    drawn = [(place, each) for place, each in enumerate(series) if len(each.points) > 1]
    plot = _overlay_plot(title, over, drawn) if drawn else '<p class="lcl-note">Waiting for the first figures.</p>'
    return (
        f'<figure class="lcl-chart lcl-overlay"><figcaption><span>{esc(title)}</span><em>over {esc(over)}</em>'
        f"</figcaption>{plot}{_series_legend(series)}</figure>"
    )


def _overlay_plot(title: str, over: str, drawn: Sequence[tuple[int, RunSeries]]) -> str:
    last = max(each.points[-1][0] for _, each in drawn)
    settled = [point for _, each in drawn for point in each.points if point[0] >= TRANSIENT_SHARE * last]
    _, right, bottom, top = plot_frame(settled)
    frame = (0.0, right, bottom, top)
    lines = "".join(_series_line(place, each, frame, raw=len(drawn) <= _MAX_RAW_SERIES) for place, each in drawn)
    words = "; ".join(
        f"{each.name}: {format_number(each.points[0][1])} at {format_number(each.points[0][0])}, "
        f"{format_number(each.points[-1][1])} at {format_number(each.points[-1][0])}"
        for _, each in drawn
    )
    data = [
        {
            "name": each.name,
            "place": place,
            "points": [[x, float(f"{y:.5g}")] for x, y in subsample(each.points, _HOVER_POINTS)],
        }
        for place, each in drawn
    ]
    return (
        f'<div class="lcl-plot lcl-plot--tall" data-series="{esc(json.dumps(data))}" data-over="{esc(over)}" '
        f'data-frame="{",".join(f"{edge:g}" for edge in frame)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{esc(f"{title} over {over}. {words}")}">{lines}</svg>{x_axis(frame)}</div>'
    )


def _series_line(place: int, series: RunSeries, frame: tuple[float, float, float, float], *, raw: bool) -> str:
    pale = (
        f'<path class="lcl-line lcl-line--raw lcl-o{place}" d="{svg_path(subsample(series.points), frame)}"/>'
        if raw
        else ""
    )
    return (
        f'{pale}<path class="lcl-line lcl-o{place}" d="{svg_path(subsample(moving_average(series.points)), frame)}"/>'
    )


def _series_legend(series: Sequence[RunSeries]) -> str:
    rows = "".join(
        f'<li><svg viewBox="0 0 30 8" aria-hidden="true"><path class="lcl-line lcl-o{place}" d="M0 4H30"/></svg>'
        f"<span>{esc(each.name)}</span>{badge(each.state)}<b>{esc(_latest_value(each.points))}</b></li>"
        for place, each in enumerate(series)
    )
    return f'<ul class="lcl-overlay__key" aria-label="Runs in the chart">{rows}</ul>'


def _latest_value(points: Sequence[Point]) -> str:
    return format_number(points[-1][1]) if points else "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Json = Mapping[str, Any]
COST_LABELS = {
    "seconds": "seconds of training",
    "images_seen": "pictures seen",
    "tokens_seen": "tokens seen",
    "flops": "floating-point operations",
}
LOG_AXIS_RATIO = 8.0  # costs that differ by more than this factor stand on a logarithmic axis
LETTER_WIDTH, LINE_HEIGHT = 2.4, 6.5  # width of a letter and height of a line, in percent of a plot
NO_VALUES = '<p class="lcl-note">Waiting for the first figures.</p>'


def row_colour_class(place: int) -> str:
    """Class, and name of the variable, of a row's colour; they begin again when there are more rows."""
    return f"lcl-c{place % PALETTE_SIZE}"


def row_label(row: Json) -> str:
    """A row of a table in a few words."""
    words = list(row["labels"].values()) + ([f"rung {row['rung']}"] if row.get("rung") is not None else [])
    return " ".join(words) or "all"


def cost_chart(table: Json, head: str) -> str:
    """A metric over its cost: a point a row with its deviation, and the Pareto front through the best at each cost."""
    compute = table["compute"]
    rows = [(place, row, row["figures"][head], row["compute"][compute]) for place, row in _rows_with_cost(table, head)]
    title = f"{head} over {COST_LABELS[compute]}"
    if not rows:
        return _figure(title, NO_VALUES)
    log = _needs_log_axis([cost for *_, cost in rows])
    at = {place: (_scale_cost(cost, log), figure["mean"]) for place, _, figure, cost in rows}
    frame = _pad_frame(plot_frame([*at.values(), *_deviation_ends(at, rows)]))
    law = _power_law(table, head, frame, log)
    front = _staircase([at[place] for place in table["pareto"][head] if place in at])
    lines = f'<path class="lcl-line lcl-line--front" d="{svg_path(front, frame)}"/>' + law
    spots = {place: _percent_position(point, frame) for place, point in at.items()}
    sides = label_positions([(*spots[place], row_label(row)) for place, row, *_ in rows])
    points = "".join(
        _cost_point(spots[place], side, frame, place, row, figure, cost, head)
        for (place, row, figure, cost), side in zip(rows, sides, strict=True)
    )
    words = ", ".join(f"{row_label(row)} {format_number(figure['mean'], 3)}" for _, row, figure, _ in rows)
    plot = _study_plot(f"{title}: {words}", frame, lines, points, _log_axis(frame) if log else x_axis(frame))
    return _figure(title, plot, "dashed: Pareto front" + ("; dotted: power law" if law else ""))


def curves_chart(curves: Json, title: str) -> str:
    """The training of every row, the mean over its seeds."""
    drawn = [
        (place, [(point[0], point[1]) for point in row["points"] if math.isfinite(point[1])])
        for place, row in enumerate(curves["rows"])
    ]
    drawn = [(place, points) for place, points in drawn if len(points) > 1]
    if not drawn:
        return _figure(title, NO_VALUES)
    last = max(points[-1][0] for _, points in drawn)
    settled = [point for _, points in drawn for point in points if point[0] >= TRANSIENT_SHARE * last]
    left, right, bottom, top = plot_frame(settled)
    frame = (0.0, max(right, left + 1), bottom, top)
    lines = "".join(
        f'<path class="lcl-line" style="stroke:var(--{row_colour_class(place)})" d="{svg_path(subsample(points, 200), frame)}">'
        f"<title>{esc(row_label(curves['rows'][place]))}</title></path>"
        for place, points in drawn
    )
    ends = ", ".join(f"{row_label(curves['rows'][place])} {format_number(points[-1][1], 3)}" for place, points in drawn)
    return _figure(title, _study_plot(f"{title}, at the end: {ends}", frame, lines, "", x_axis(frame)), "over steps")


def _rows_with_cost(table: Json, head: str) -> list[tuple[int, Json]]:
    compute = table["compute"]
    return [
        (place, row)
        for place, row in enumerate(table["rows"])
        if head in row["figures"] and row["compute"][compute] is not None
    ]


def _deviation_ends(at: Mapping[int, Point], rows: Sequence[tuple[int, Json, Json, float]]) -> list[Point]:
    """Both ends of each deviation."""
    spread = [(place, figure["mean"], figure["sd"] or 0.0) for place, _, figure, _ in rows]
    return [(at[place][0], mean + sign * sd) for place, mean, sd in spread for sign in (-1, 1)]


def _needs_log_axis(costs: Sequence[float]) -> bool:
    return min(costs) > 0 and max(costs) > LOG_AXIS_RATIO * min(costs)


def _scale_cost(cost: float, log: bool) -> float:
    return math.log10(cost) if log else cost


def _pad_frame(frame: Frame) -> Frame:
    left, right, bottom, top = frame
    room = 0.07 * (right - left)
    return left - room, right + room, bottom, top


def _staircase(points: Sequence[Point]) -> list[Point]:
    """A line that keeps its height until the next point: nothing is promised in between."""
    line: list[Point] = []
    for x, y in points:
        line += [(x, line[-1][1]), (x, y)] if line else [(x, y)]
    return line


def _power_law(table: Json, head: str, frame: Frame, log: bool) -> str:
    """The power law as a line; not over seconds, which say more about the machine than about the work."""
    law = table["fits"][head]
    if law is None or table["compute"] == "seconds" or law["interval"] is None:
        return ""
    left, right = frame[:2]
    places = [left + (right - left) * step / 40 for step in range(41)]
    points = [(x, law["factor"] * (10**x if log else max(x, 1e-9)) ** law["exponent"]) for x in places]
    low, high = law["interval"]
    words = f"∝ cost^{law['exponent']:.3f}, 95 %: {low:.3f} to {high:.3f}"
    path = svg_path(points, frame)
    return f'<path class="lcl-line lcl-line--law" d="{path}"><title>{esc(words)}</title></path>'


def label_positions(spots: Sequence[tuple[float, float, str]]) -> list[str]:
    """Where each point's name stands so that it covers nothing: right, left, above, below, or (none) nowhere.

    Args:
        spots: (x, y, name), in percent of the plot, from its left and its top.
    """
    taken = [(x - 2.5, y - 2.5, x + 2.5, y + 2.5) for x, y, _ in spots]
    sides = []
    for x, y, name in spots:
        boxes = {side: _label_box(x, y, name, side) for side in ("right", "left", "above", "below")}
        side = next((side for side, box in boxes.items() if _is_free(box, taken)), "none")
        if side != "none":
            taken.append(boxes[side])
        sides.append(side)
    return sides


def _label_box(x: float, y: float, name: str, side: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a name beside its point."""
    wide, high = LETTER_WIDTH * len(name), LINE_HEIGHT
    left = {"right": x + 3.5, "left": x - 3.5 - wide}.get(side, x - wide / 2)
    top = {"above": y - 3.5 - high, "below": y + 3.5}.get(side, y - high / 2)
    return left, top, left + wide, top + high


def _is_free(box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = box
    inside = left >= -2 and right <= 102 and top >= -2 and bottom <= 102
    apart = (right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top for other in taken)
    return inside and all(apart)


def _percent_position(point: Point, frame: Frame) -> Point:
    """In percent from the plot's left and top."""
    left, right, bottom, top = frame
    return 100 * (point[0] - left) / (right - left), 100 * (top - point[1]) / (top - bottom)


def _cost_point(
    spot: Point, side: str, frame: Frame, which: int, row: Json, figure: Json, cost: float, head: str
) -> str:
    (x, y), (_, _, bottom, top) = spot, frame
    tall = 200 * (figure["sd"] or 0.0) / (top - bottom)
    spread = "" if figure["sd"] is None else f" ± {format_number(figure['sd'], 2)}"
    words = (
        f"{row_label(row)}: {head} {format_number(figure['mean'], 3)}{spread} at {format_number(float(f'{cost:.3g}'))}"
    )
    name = "" if side == "none" else f'<span class="lcl-{side}">{esc(row_label(row))}</span>'
    return (
        f'<i class="lcl-whisker {row_colour_class(which)}" style="left:{x:.2f}%;top:{y - tall / 2:.2f}%;height:{tall:.2f}%">'
        f'</i><i class="lcl-mark-point {row_colour_class(which)}" style="left:{x:.2f}%;top:{y:.2f}%" '
        f'title="{esc(words)}">{name}</i>'
    )


def _log_axis(frame: Frame) -> str:
    """Numbers 1, 2 and 5 of every order of magnitude, below a logarithmic plot."""
    left, right = frame[:2]
    exponents = range(math.floor(left), math.ceil(right) + 1)
    values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    shown = [value for value in values if left <= math.log10(value) <= right]
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (math.log10(value) - left) / (right - left):.2f}%">'
        f"{_axis_number(value)}</span>"
        for value in shown
    )


def _axis_number(value: float) -> str:
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e") if value >= 1e6 else format_number(value)


def _study_plot(words: str, frame: Frame, lines: str, points: str, axis: str) -> str:
    return (
        f'<div class="lcl-plot lcl-plot--tall" role="img" aria-label="{esc(words)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg>{points}{axis}</div>'
    )


def _figure(title: str, inside: str, hint: str = "") -> str:
    note = f"<em>{esc(hint)}</em>" if hint else ""
    return f'<figure class="lcl-chart"><figcaption><span>{esc(title)}</span>{note}</figcaption>{inside}</figure>'
