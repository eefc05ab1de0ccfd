"""Curves and strips: what they show, and that they survive odd figures."""

from __future__ import annotations

import re

import pytest

from ui.charts import MAX_POINTS, line_chart, moving_average, subsample, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 5, 10]), (0.13, 0.42, [0.2, 0.3, 0.4]), (-1, 1, [-1, 0, 1]), (0, 99, [0, 25, 50, 75]), (3, 3, [3])],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_thinning_keeps_both_ends() -> None:
    points = [(float(i), 0.0) for i in range(5000)]
    kept = subsample(points)
    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert subsample(points[:7]) == points[:7]


def test_smoothing_starts_at_the_first_value_and_leaves_a_constant_alone() -> None:
    assert moving_average([(0, 5.0), (1, 5.0)]) == [(0, pytest.approx(5)), (1, pytest.approx(5))]
    assert moving_average([(0, 3.0), (1, 9.0)])[0][1] == pytest.approx(3)


def test_a_curve_ends_at_the_latest_value() -> None:
    drawn = line_chart("loss", [(10, 4.0), (20, 2.0), (30, 1.0)], 1)
    assert 'aria-label="Loss: 4.000 at step 10, 1.000 at step 30"' in drawn
    assert "<b>1.000</b>" in drawn
    path = re.search(r'lcl-line--raw" d="M([^"]+)"', drawn)
    assert path is not None
    places = [tuple(map(float, pair.split())) for pair in path[1].split("L")]
    assert [x for x, _ in places] == [0, 50, 100]
    assert places[0][1] < places[1][1] < places[2][1]  # y grows downwards


def test_a_flat_curve_is_drawn() -> None:
    assert "nan" not in line_chart("Loss", [(1, 0.0), (2, 0.0)], 1)
