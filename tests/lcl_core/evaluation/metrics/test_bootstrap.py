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
