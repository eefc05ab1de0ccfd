"""A study's charts: where points, names and lines stand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.charts import cost_chart, curves_chart, row_colour_class

Json = dict[str, Any]


def row(name: str, cost: float | None, mean: float | None, sd: float | None = None) -> Json:
    figures = {} if mean is None else {"m": {"mean": mean, "sd": sd}}
    return {"labels": {"a": name}, "figures": figures, "compute": {"seconds": cost, "flops": cost}}


def table(*rows: Json, front: tuple[int, ...] = (), compute: str = "seconds") -> Json:
    return {"rows": rows, "compute": compute, "pareto": {"m": front}}


def spots(drawn: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r'lcl-mark-point[^"]*" style="left:([\d.]+)%;top:([\d.]+)%" title="([^:]+):', drawn)
    return {name: (float(left), float(top)) for left, top, name in found}


def test_cost_runs_to_the_right_and_quality_up() -> None:
    drawn = cost_chart(table(row("dear", 20, 0.9), row("cheap", 10, 0.1, 0.05), front=(1, 0)), "m")
    at = spots(drawn)
    assert at["cheap"][0] < at["dear"][0]
    assert at["cheap"][1] > at["dear"][1]
    assert "m over seconds of training" in drawn
    assert "cheap: m 0.1 ± 0.05 at 10" in drawn
    assert "dear: m 0.9 at 20" in drawn


def test_the_front_is_a_staircase_through_its_points() -> None:
    drawn = cost_chart(table(row("a", 10, 0.2), row("b", 20, 0.1), row("c", 30, 0.4), front=(0, 2)), "m")
    path = re.search(r'lcl-line--front" d="M([^"]+)"', drawn)
    assert path is not None
    corners = [tuple(float(number) for number in point.split()) for point in path[1].split("L")]
    at = spots(drawn)
    expected = [at["a"], (at["c"][0], at["a"][1]), at["c"]]
    assert [pytest.approx(corner, abs=0.02) for corner in expected] == corners


def test_costs_that_differ_widely_stand_on_a_logarithmic_axis() -> None:
    at = spots(cost_chart(table(row("a", 1, 0.1), row("b", 10, 0.2), row("c", 100, 0.3)), "m"))
    assert at["b"][0] - at["a"][0] == pytest.approx(at["c"][0] - at["b"][0], abs=0.02)
    drawn = cost_chart(table(row("a", 1e12, 0.1), row("c", 1e14, 0.3), compute="flops"), "m")
    assert re.findall(r">(\d·[^<]+)<", drawn) == ["1·10¹²", "2·10¹²", "5·10¹²", "1·10¹³", "2·10¹³", "5·10¹³", "1·10¹⁴"]


def test_rows_without_figure_or_cost_are_left_out() -> None:
    drawn = cost_chart(table(row("a", 10, 0.2), row("b", None, 0.1), row("c", 30, None), front=(0,)), "m")
    assert set(spots(drawn)) == {"a"}
    assert "Waiting for the first figures" in cost_chart(table(row("a", None, None)), "m")


def test_a_row_keeps_its_colour_in_both_charts() -> None:
    curves = {"rows": [{"labels": {"a": x}, "points": [[0, y, y, y], [10, y, y, y]]} for x, y in (("p", 1), ("q", 2))]}
    drawn = curves_chart(curves, "loss")
    assert drawn.count('class="lcl-line"') == 2
    for place in (0, 1):
        assert f"stroke:var(--{row_colour_class(place)})" in drawn
        assert f"lcl-mark-point {row_colour_class(place)}" in cost_chart(table(row("p", 1, 0.1), row("q", 2, 0.2)), "m")
    assert row_colour_class(11) == row_colour_class(0)
    assert 'aria-label="loss, at the end: p 1.000, q 2.000"' in drawn


def test_the_steep_beginning_does_not_flatten_the_rest() -> None:
    points = [[step, 1000.0 if step < 5 else 2 - step / 100, 0, 0] for step in range(101)]
    drawn = curves_chart({"rows": [{"labels": {"a": "x"}, "points": points}]}, "loss")
    ends = [float(y) for y in re.findall(r"L[\d.]+ ([\d.-]+)", drawn)]
    assert ends[-1] == pytest.approx(94.6, abs=1)
    assert min(ends[5:]) > 0


def test_odd_curves_survive() -> None:
    waiting = curves_chart({"rows": [{"labels": {}, "points": []}]}, "loss")
    assert "Waiting for the first figures" in waiting
    nan = {"rows": [{"labels": {"a": "<x>"}, "points": [[0, float("nan"), 0, 0], [1, 1.0, 1, 1], [2, 2.0, 2, 2]]}]}
    assert "nan" not in curves_chart(nan, "loss")
    assert "&lt;x&gt;" in curves_chart(nan, "loss")
