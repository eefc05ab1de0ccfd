"""The curves of several runs in one chart: each has a colour, a dash and a line of the legend."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ui.charts import Point, frame_of, path_of, smooth, thin, x_axis, y_axis
from ui.html import badge, esc, number

LINES = 6  # colours in style.css (--lcl-o0 …), told apart with any colour vision, and by their dashes
SETTLING = 0.05  # of the longest curve: its steep beginning does not decide what is seen of the rest
_FEW = 3  # up to so many the raw values are shown too
_POINTS = 200  # of a line, for the value under the cursor

AXES = {"step": "Steps", "images_seen": "Pictures seen"}
METRICS = {
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
class Series:
    """One run's line; ``state`` is the run's."""

    name: str
    state: str
    points: Sequence[Point]


def value_of(line: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a line; the loss is the sum of its parts where the line does not say it."""
    found = line.get(metric)
    if found is None and metric == "loss":
        parts = [value for name, value in line.items() if name.endswith("_loss") and _is_number(value)]
        found = sum(parts) if parts else None
    return found if _is_number(found) else None


def points_of(lines: Sequence[Mapping[str, Any]], metric: str, axis: str) -> list[Point]:
    """Where both are numbers."""
    pairs = ((line.get(axis), value_of(line, metric)) for line in lines)
    return [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]


def overlay_chart(metric: str, axis: str, series: Sequence[Series]) -> str:
    """At most ``LINES`` of them, in the order given; a run without figures yet stands in the legend alone."""
    series = series[:LINES]
    title, over = METRICS.get(metric, metric), AXES.get(axis, axis).lower()
    drawn = [(place, each) for place, each in enumerate(series) if len(each.points) > 1]
    plot = _plot(title, over, drawn) if drawn else '<p class="lcl-note">Waiting for the first figures.</p>'
    return (
        f'<figure class="lcl-chart lcl-overlay"><figcaption><span>{esc(title)}</span><em>over {esc(over)}</em>'
        f"</figcaption>{plot}{_legend(series)}</figure>"
    )


def _plot(title: str, over: str, drawn: Sequence[tuple[int, Series]]) -> str:
    last = max(each.points[-1][0] for _, each in drawn)
    settled = [point for _, each in drawn for point in each.points if point[0] >= SETTLING * last]
    _, right, bottom, top = frame_of(settled)
    frame = (0.0, right, bottom, top)
    lines = "".join(_line(place, each, frame, raw=len(drawn) <= _FEW) for place, each in drawn)
    words = "; ".join(
        f"{each.name}: {number(each.points[0][1])} at {number(each.points[0][0])}, "
        f"{number(each.points[-1][1])} at {number(each.points[-1][0])}"
        for _, each in drawn
    )
    data = [
        {"name": each.name, "place": place, "points": [[x, float(f"{y:.5g}")] for x, y in thin(each.points, _POINTS)]}
        for place, each in drawn
    ]
    return (
        f'<div class="lcl-plot lcl-plot--tall" data-series="{esc(json.dumps(data))}" data-over="{esc(over)}" '
        f'data-frame="{",".join(f"{edge:g}" for edge in frame)}">{y_axis(frame)}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{esc(f"{title} over {over}. {words}")}">{lines}</svg>{x_axis(frame)}</div>'
    )


def _line(place: int, series: Series, frame: tuple[float, float, float, float], *, raw: bool) -> str:
    pale = (
        f'<path class="lcl-line lcl-line--raw lcl-o{place}" d="{path_of(thin(series.points), frame)}"/>' if raw else ""
    )
    return f'{pale}<path class="lcl-line lcl-o{place}" d="{path_of(thin(smooth(series.points)), frame)}"/>'


def _legend(series: Sequence[Series]) -> str:
    rows = "".join(
        f'<li><svg viewBox="0 0 30 8" aria-hidden="true"><path class="lcl-line lcl-o{place}" d="M0 4H30"/></svg>'
        f"<span>{esc(each.name)}</span>{badge(each.state)}<b>{esc(_last(each.points))}</b></li>"
        for place, each in enumerate(series)
    )
    return f'<ul class="lcl-overlay__key" aria-label="Runs in the chart">{rows}</ul>'


def _last(points: Sequence[Point]) -> str:
    return number(points[-1][1]) if points else "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
