"""Paired comparison: by hand, against plain simulation, and with statistics that are no means."""

from itertools import product

import numpy as np
import pytest

from lcl_core.evaluation import significance
from lcl_core.evaluation.metrics import core
from lcl_core.evaluation.metrics.core import BootstrapMetric
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.evaluation.significance import PairedOutcomes, compare_runs

LEFT = np.array([0.0, 1.0, 2.0, 0.0, 5.0])
RIGHT = np.array([1.0, 1.0, 4.0, 1.0, 4.0])


def measure(values, statistic=core.mean_of, first=0):
    return BootstrapMetric("m", [str(first + n) for n in range(len(values))], values, statistic)


def pairs(left, right, statistic=core.mean_of):
    found = PairedOutcomes.of(measure(left, statistic), measure(right, statistic))
    assert found is not None
    return found


@pytest.mark.parametrize(("statistic", "plain"), [(core.mean_of, np.mean), (core.median_of, np.median)])
def test_few_units_are_tossed_in_every_way(statistic, plain):
    """Sixteen ways to let the four units that differ change places, written out."""
    assert callable(plain)
    seen = abs(plain(RIGHT) - plain(LEFT))
    differing = np.flatnonzero(LEFT != RIGHT)
    as_large = 0
    for toss in product([False, True], repeat=len(differing)):
        swap = np.zeros(len(LEFT), bool)
        swap[differing] = toss
        mine, other = np.where(swap, RIGHT, LEFT), np.where(swap, LEFT, RIGHT)
        as_large += abs(plain(other) - plain(mine)) >= seen - 1e-12
    assert pairs(LEFT, RIGHT, statistic).p_value(0, 10_000) == as_large / 2 ** len(differing)


def test_a_sign_test_by_hand():
    """Right wins four units and loses none: of 16 tosses, two are as extreme."""
    assert pairs(np.zeros(9), np.array([1.0] * 4 + [0.0] * 5)).p_value(0, 10_000) == 2 / 16


def grouped(left, right, groups, *, stored="both"):
    metrics = [
        BootstrapMetric("m", [str(n) for n in range(len(values))], values, core.mean_of, groups=given)
        for values, given in (
            (left, groups if stored != "right" else None), (right, groups if stored != "left" else None)
        )
    ]  # fmt: skip
    found = PairedOutcomes.of(*metrics)
    assert found is not None
    return found


@pytest.mark.parametrize("stored", ["both", "left", "right"])
def test_units_of_a_group_change_places_together(stored):
    """Right wins twelve units of four groups and loses none: of 16 tosses, two are as extreme."""
    left, right = np.zeros(14), np.array([1.0] * 12 + [0.0] * 2)
    found = grouped(left, right, [*(name for name in "abcd" for _ in range(3)), "e", "e"], stored=stored)
    assert found.p_value(0, 10_000) == 2 / 16
    assert found.values() == (0, 12 / 14)
    assert int(found.counts.sum()) == 14


def test_many_groups_are_simulated_and_agree_with_units_that_stand_for_them():
    rng = np.random.default_rng(0)
    left, right = rng.random(60), rng.random(60) + 0.1
    names = [f"group {n}" for n in range(60) for _ in range(3)]
    found, alone = grouped(np.repeat(left, 3), np.repeat(right, 3), names), pairs(left, right)
    assert found.p_value(0, 20_000) == pytest.approx(alone.p_value(0, 20_000), abs=0.01)
    assert found.interval(0, 20_000) == pytest.approx(alone.interval(0, 20_000), abs=0.01)


def test_all_permutations_of_few_differing_units_among_many_are_computed_in_parts(monkeypatch):
    expected = pairs(LEFT, RIGHT).p_value(0, 10_000)
    monkeypatch.setattr(significance, "MAX_DRAWN_NUMBERS", 3 * 2 * len(LEFT))  # three permutations a part
    assert pairs(LEFT, RIGHT).p_value(0, 10_000) == expected


def test_many_units_are_simulated_and_agree_with_plain_simulation():
    rng = np.random.default_rng(3)
    left, right = rng.random(60) < 0.5, rng.random(60) < 0.68
    found = pairs(left, right)
    signs = rng.choice([-1, 1], size=(40_000, 60))
    apart = right.astype(float) - left
    expected = np.mean(np.abs(signs @ apart) >= abs(apart.sum()) - 1e-9)
    assert found.p_value(0, 20_000) == pytest.approx(expected, abs=0.015)
    drawn = apart[rng.integers(0, 60, size=(40_000, 60))].mean(axis=1)
    assert found.interval(0, 20_000) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_equal_runs_differ_by_nothing_and_surely():
    found = pairs(LEFT, LEFT)
    assert found.p_value(0, 100) == 1
    assert found.interval(0, 100) == (0, 0)


def test_values_of_several_columns_are_kept_together():
    def ratio(rows, counts):
        totals = counts @ rows
        return totals[:, 0] / totals[:, 1]

    left, right = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[2.0, 2.0], [3.0, 4.0]])
    found = pairs(left, right, ratio)
    assert found.values() == (4 / 6, 5 / 6)
    assert found.p_value(0, 100) == 1  # one unit differs; either way it is as large


def test_ranks_among_different_numbers_of_candidates_are_not_compared(tmp_path):
    folders = [tmp_path / name for name in ("left", "same", "larger")]
    for folder, candidates in zip(folders, (9, 9, 900), strict=True):
        store = PredictionStore(folder)
        store.start()
        about = ("retrieval", "test", "captions[0]", "zero_shot", "ranks", "trained")
        file = PredictionFile(*about, part="text_to_image", facts={"candidates": candidates})
        store.add(file, [{"query": f"q{n}", "rank": n + 1, "right": 1, "top": []} for n in range(4)])
    left, same, larger = folders
    assert {found.metric for found in compare_runs(left, same)} == {"IR@1", "IR@5", "IR@10", "IR median rank"}
    assert compare_runs(left, larger) == []


def test_only_units_that_both_have_are_compared():
    found = PairedOutcomes.of(measure(LEFT), measure(RIGHT, first=3))
    assert found is not None
    assert int(found.counts.sum()) == 2
    assert found.values() == (2.5, 1.0)  # left's units 3, 4 and right's first two
    assert PairedOutcomes.of(measure(LEFT), measure(RIGHT, first=90)) is None


def records(folder, ranks, variant="captions[0]"):
    kept = PredictionStore(folder)
    kept.start()
    for encoder, values in (("trained", ranks), ("untrained", [99] * len(ranks))):
        sheet = PredictionFile(
            "retrieval", "test", variant, "zero_shot", "ranks", encoder, part="text_to_image", facts={"candidates": 99}
        )
        kept.add(sheet, [{"query": str(n), "rank": rank, "right": 1, "top": []} for n, rank in enumerate(values)])
    return folder


def test_runs_are_compared_by_their_records(tmp_path):
    left, right = records(tmp_path / "a", [1, 9, 9, 9, 9]), records(tmp_path / "b", [1, 1, 1, 1, 1])
    found = {each.metric: each for each in compare_runs(left, right)}
    assert list(found) == ["IR@1", "IR@5", "IR@10", "IR median rank"]
    first = found["IR@1"]
    assert (first.left, first.right, first.difference, first.count) == (0.2, 1.0, pytest.approx(0.8), 5)
    assert first.p == 2 / 16
    assert first.interval[0] < 0.8 < first.interval[1] <= 1
    assert found["IR@10"].p == 1
    other = records(tmp_path / "c", [1], variant="all")
    assert compare_runs(left, other) == []
