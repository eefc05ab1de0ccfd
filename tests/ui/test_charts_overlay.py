"""Curves of several runs in one chart: values, legend, words, and colours that anybody can tell apart."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import combinations
from pathlib import Path

import pytest

from ui.charts import MAX_SERIES, RunSeries, metric_points, metric_value, overlay_chart

STYLE = (Path(__file__).parents[2] / "ui" / "style.css").read_text(encoding="utf-8")
LINE = {"step": 10, "images_seen": 1280, "loss": 5.0, "contrastive_loss": 1.5, "generation_loss": 2.5}
# what is left of linear red, green and blue (Machado, Oliveira and Fernandes 2009, severity 1)
SIGHT = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red cones": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "no green cones": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "no blue cones": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


def series(name: str, *values: float, state: str = "running") -> RunSeries:
    return RunSeries(name, state, [(10.0 * (place + 1), value) for place, value in enumerate(values)])


def test_every_run_has_a_line_a_colour_and_a_line_of_the_legend() -> None:
    drawn = overlay_chart("loss", "step", [series("a <b>", 5, 4, 3), series("other", 6, 5, 2.5, state="succeeded")])
    assert drawn.count('class="lcl-line lcl-o0"') == 2, "line and legend"
    assert drawn.count('class="lcl-line lcl-o1"') == 2
    assert "<span>a &lt;b&gt;</span>" in drawn
    assert "<b>2.500</b></li>" in drawn
    assert "lcl-badge--succeeded" in drawn
    words = unescape(re.findall(r'aria-label="(Loss[^"]*)"', drawn)[0])
    assert words == "Loss over steps. a <b>: 5.000 at 10, 3.000 at 30; other: 6.000 at 10, 2.500 at 30"
    data = json.loads(unescape(re.findall(r'data-series="([^"]*)"', drawn)[0]))
    assert data[1] == {"name": "other", "place": 1, "points": [[10, 6], [20, 5], [30, 2.5]]}


def test_a_learning_rate_is_drawn_as_it_is() -> None:
    """Smoothing would draw another schedule."""
    values = (0.0, 1.0, 1.0, 0.5, 0.0)
    loss, rate = (overlay_chart(metric, "step", [series("a", *values)]) for metric in ("loss", "lr"))
    assert (loss.count("lcl-line--raw"), rate.count("lcl-line--raw")) == (1, 0)
    raw = re.findall(r'lcl-line--raw lcl-o0" d="([^"]+)"', loss)[0]
    assert f'class="lcl-line lcl-o0" d="{raw}"' in rate


def test_a_run_without_figures_waits_in_the_legend() -> None:
    drawn = overlay_chart("loss", "images_seen", [series("new", state="queued"), series("old", 3, 2, 1)])
    assert "over images seen" in drawn
    assert "<b>…</b>" in drawn
    assert 'class="lcl-line lcl-o1"' in drawn
    alone = overlay_chart("loss", "step", [series("new")])
    assert "Waiting for the first figures" in alone
    assert "data-series" not in alone


def test_there_are_no_more_lines_than_colours() -> None:
    drawn = overlay_chart("loss", "step", [series(str(n), 3, 2, 1) for n in range(MAX_SERIES + 2)])
    assert drawn.count("<li>") == MAX_SERIES
    assert f"lcl-o{MAX_SERIES}" not in drawn
    assert "lcl-line--raw" not in drawn, "many lines are smoothed alone"


def test_the_steep_beginning_does_not_decide_the_scale() -> None:
    drawn = overlay_chart("loss", "step", [series("a", 1000, *[2 + 1 / n for n in range(1, 60)])])
    assert float(re.findall(r'data-frame="[^"]*,([^",]+)"', drawn)[0]) < 10


def test_a_loss_that_is_not_reported_is_the_sum_of_its_parts() -> None:
    assert metric_value(LINE, "loss") == 5
    assert metric_value({**LINE, "loss": None}, "loss") == 4
    assert metric_value({"step": 1}, "loss") is None
    assert metric_points([LINE, {"step": 20}, {**LINE, "loss": float("nan")}], "loss", "images_seen") == [(1280, 5)]


@pytest.mark.parametrize(("scheme", "card"), [(":root", "#ffffff"), (".dark", "#131a23")])
@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_reported_apart_with_any_sight(scheme: str, card: str, sight: str) -> None:
    """CIELAB distances above 15 (2 is just seen), and 3 to 1 against the card, as WCAG 1.4.11 asks."""
    block = STYLE[STYLE.index(f"{scheme} {{") :]
    colours = [re.findall(rf"--lcl-o{n}: (#\w+)", block)[0] for n in range(MAX_SERIES)]
    seen = [_lab(_through(SIGHT[sight], _linear(colour))) for colour in colours]
    assert min(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5 for a, b in combinations(seen, 2)) > 15
    light = [sorted((_luminance(colour), _luminance(card))) for colour in colours]
    assert min((high + 0.05) / (low + 0.05) for low, high in light) > 3
    dashes = {re.findall(rf"\.lcl-o{n} \{{([^}}]*)\}}", STYLE)[0].partition("dasharray")[2] for n in range(MAX_SERIES)}
    assert len(dashes) == MAX_SERIES


def _linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _through(matrix: tuple[tuple[float, ...], ...], colour: list[float]) -> list[float]:
    return [min(1.0, max(0.0, sum(m * c for m, c in zip(row, colour, strict=True)))) for row in matrix]


def _luminance(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _lab(colour: list[float]) -> tuple[float, float, float]:
    red, green, blue = colour
    places = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.0888,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in places)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
