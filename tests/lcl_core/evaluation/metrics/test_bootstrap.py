"""A measure: its value and interval from one definition."""

from __future__ import annotations

import numpy as np
import pytest

from lcl_core.evaluation.metrics import core
from lcl_core.evaluation.metrics.core import BootstrapMetric


def test_value_and_interval_of_single_numbers() -> None:
    values = np.arange(101.0)
    median = BootstrapMetric("m", [str(n) for n in range(101)], values, core.median_of)
    assert median.value == 50
    low, high = median.interval(seed=0)
    assert 35 < low < 50 < high < 65


def test_a_statistic_of_rows_is_given_rows() -> None:
    def pooled(rows: core.Numbers, counts: core.Ints) -> core.Numbers:
        totals = counts @ rows
        return totals[:, 0] / totals[:, 1]

    values = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    measure = BootstrapMetric("m", ["a", "b", "c"], values, pooled)
    assert measure.value == pytest.approx(3 / 7)
    low, high = measure.interval(seed=0)
    assert (low, high) == (pytest.approx(1 / 3), pytest.approx(1.0))


def test_groups_are_drawn_whole() -> None:
    """Three equal images of each concept say no more than one: the interval is wider by the root of three."""
    rng = np.random.default_rng(0)
    once = (rng.random(200) < 0.3).astype(float)
    thrice, concepts = np.repeat(once, 3), [f"concept {n}" for n in range(200) for _ in range(3)]

    def width(values: np.ndarray, groups: list[str] | None) -> float:
        units = [str(n) for n in range(len(values))]
        low, high = BootstrapMetric("m", units, values, core.mean_of, groups=groups).interval(seed=0)
        assert low < values.mean() < high
        return high - low

    assert width(thrice, concepts) == pytest.approx(width(once, None), rel=0.1)
    assert width(thrice, concepts) == pytest.approx(3**0.5 * width(thrice, None), rel=0.1)
    assert width(once, [str(n) for n in range(200)]) == pytest.approx(width(once, None), rel=0.1)
    assert width(once, [""] * 200) == pytest.approx(width(once, None), rel=0.1)


def test_groups_of_different_sizes_and_statistics_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain simulation: draw groups, join their values."""
    values, groups = np.array([1.0, 1, 2, 5, 5, 9]), ["a", "a", "b", "b", "c", "c"]
    found = core.bootstrap_interval(values, core.median_of, seed=0, groups=groups, draws=4000)
    rng = np.random.default_rng(1)
    parts = [values[:2], values[2:4], values[4:]]
    plain = [np.median(np.concatenate([parts[n] for n in rng.integers(0, 3, 3)])) for _ in range(4000)]
    assert found == tuple(np.quantile(plain, [0.025, 0.975]))
    monkeypatch.setattr(core, "MAX_DRAWN_NUMBERS", 50)
    assert core.bootstrap_interval(values, core.median_of, seed=0, groups=groups, draws=4000) == found
