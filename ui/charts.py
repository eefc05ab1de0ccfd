"""Charts as inline SVG: they follow the page's colours, load nothing and need no plotting library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ui.html import esc, item_url, number

MAX_POINTS = 400
COLOURS = 11  # the palette in style.css; further labels share one grey
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


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` points, evenly spaced, the last one always among them."""
    if len(points) <= limit:
        return list(points)
    stride = (len(points) - 1) / (limit - 1)
    return [points[round(i * stride)] for i in range(limit)]


def smooth(points: Sequence[Point], weight: float = 0.6) -> list[Point]:
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
    last = number(good[-1][1]) if good else "…"
    head = f"<figcaption><span>{esc(title)}</span><b>{esc(last)}</b></figcaption>"
    if len(good) < 2:
        return f'<figure class="lcl-chart">{head}<p class="lcl-note">Waiting for the first figures.</p></figure>'
    raw, mean = thin(good), thin(smooth(good))
    frame = frame_of(raw)
    lines = (
        f'<path class="lcl-line lcl-line--raw" d="{path_of(raw, frame)}"/>'
        f'<path class="lcl-line" d="{path_of(mean, frame)}"/>'
    )
    words = f"{title}: {number(good[0][1])} at step {number(good[0][0])}, {last} at step {number(good[-1][0])}"
    data = ";".join(f"{x:g},{y:.5g}" for x, y in thin(good, 200))
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
    ranked = [name for name, _ in counts.most_common(COLOURS)]
    colour = {name: i for i, name in enumerate(ranked)}
    left, top, width, height = _box(points)
    radius = 0.008 * max(width, height)
    drawn = sorted(zip(points, names, strict=True), key=lambda pair: bool(pair[1]))
    dots = "".join(_dot(collection, point, name, colour, radius) for point, name in drawn)
    words = f"Map of {len(points)} pictures" + (f", coloured by {label}" if label else "")
    return (
        f'<div class="lcl-map"><div class="lcl-map__stage"><svg role="img" aria-label="{esc(words)}" '
        f'viewBox="{left:.4f} {top:.4f} {width:.4f} {height:.4f}">{dots}</svg><div class="lcl-tip" hidden></div></div>'
        f"{_legend(ranked, counts, len(points))}</div>"
    )


def _box(points: Sequence[Mapping[str, Any]]) -> tuple[float, float, float, float]:
    """Left, top, width and height that hold all points with a margin; y grows downwards in SVG."""
    xs = [point["x"] for point in points]
    ys = [-point["y"] for point in points]
    margin = 0.03 * max(max(xs) - min(xs), max(ys) - min(ys), 1e-3)
    return min(xs) - margin, min(ys) - margin, max(xs) - min(xs) + 2 * margin, max(ys) - min(ys) + 2 * margin


def _dot(collection: str, point: Mapping[str, Any], name: str, colour: Mapping[str, int], radius: float) -> str:
    which = colour.get(name, COLOURS)
    return (
        f'<circle class="lcl-c{which}" cx="{point["x"]:.4f}" cy="{-point["y"]:.4f}" r="{radius:.4f}" data-c="{which}" '
        f'data-name="{esc(point["caption"])}" data-label="{esc(name)}" '
        f'data-src="{esc(item_url(collection, point["id"]))}"/>'
    )


def _legend(ranked: Sequence[str], counts: Mapping[str, int], total: int) -> str:
    if not ranked:
        return ""
    entries = [(i, name, counts[name]) for i, name in enumerate(ranked)]
    if rest := total - sum(count for _, _, count in entries):
        entries.append((COLOURS, "others", rest))
    rows = "".join(
        f'<li><button type="button" data-legend="{i}" aria-pressed="false"><i class="lcl-c{i}" aria-hidden="true"></i>'
        f"<span>{esc(name)}</span><em>{count:,}</em></button></li>"
        for i, name, count in entries
    )
    return f'<ul class="lcl-legend" aria-label="Labels; choose one to bring it out">{rows}</ul>'


def frame_of(points: Sequence[Point]) -> Frame:
    """Lowest and highest x, and y with room above and below."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return min(xs), max(max(xs), min(xs) + 1), low - pad, high + pad


def path_of(points: Sequence[Point], frame: Frame) -> str:
    """A line in a view box of 100 by 100."""
    low_x, high_x, low_y, high_y = frame
    places = (
        f"{100 * (x - low_x) / (high_x - low_x):.2f} {100 * (high_y - y) / (high_y - low_y):.2f}" for x, y in points
    )
    return "M" + "L".join(places)


def y_axis(frame: Frame) -> str:
    """Numbers and rules beside a plot."""
    _, _, low, high = frame
    places = ((100 * (high - y) / (high - low), number(y, 3)) for y in ticks(low, high, 3))
    return "".join(
        f'<i class="lcl-rule" style="top:{top:.2f}%"></i>'
        f'<span class="lcl-tick lcl-tick--y" style="top:{top:.2f}%">{y}</span>'
        for top, y in places
    )


def x_axis(frame: Frame) -> str:
    """Numbers below a plot."""
    low, high, _, _ = frame
    return "".join(
        f'<span class="lcl-tick lcl-tick--x" style="left:{100 * (x - low) / (high - low):.2f}%">{number(x, 3)}</span>'
        for x in ticks(low, high, 4)
    )


def fingerprint(vector: Sequence[float]) -> str:
    """A vector as a strip: one bar a number, above the middle when positive, below when negative."""
    peak = max((abs(value) for value in vector), default=0.0) or 1.0
    bars = "".join(
        f"M{i + 0.5} 10V{10 - 10 * value / peak:.2f}" for i, value in enumerate(vector) if abs(value) > 0.005 * peak
    )
    return (
        f'<svg class="lcl-strip" viewBox="0 0 {max(1, len(vector))} 20" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}"/></svg>'
    )
