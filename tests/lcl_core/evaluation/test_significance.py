"""Paired comparison: by hand, against plain simulation, and with statistics that are no means."""

import numpy as np
import pytest

from lcl_core.evaluation.metrics import BootstrapMetric, mean_of, median_of
from lcl_core.evaluation.results import PredictionFile, PredictionStore
from lcl_core.evaluation.significance import PairedOutcomes, compare_runs, compare_selected
from lcl_core.specs.study import MetricSpec

LEFT = np.array([0.0, 1.0, 2.0, 0.0, 5.0])
RIGHT = np.array([1.0, 1.0, 4.0, 1.0, 4.0])


def measure(values, statistic=mean_of, first=0):
    return BootstrapMetric("m", [str(first + n) for n in range(len(values))], values, statistic)


def pairs(left, right, statistic=mean_of):
    found = PairedOutcomes.of(measure(left, statistic), measure(right, statistic))
    return found


@pytest.mark.parametrize(("statistic", "plain"), [(mean_of, np.mean), (median_of, np.median)])
def test_p_is_the_share_of_exchanges_with_as_large_a_difference(statistic, plain):
    rng, seen = np.random.default_rng(1), abs(plain(RIGHT) - plain(LEFT))
    swaps = rng.random((4000, len(LEFT))) < 0.5
    mine, other = np.where(swaps, RIGHT, LEFT), np.where(swaps, LEFT, RIGHT)
    share = np.mean(np.abs(plain(other, axis=1) - plain(mine, axis=1)) >= seen - 1e-12)
    assert pairs(LEFT, RIGHT, statistic).p_value(0, 10_000) == pytest.approx(share, abs=0.03)


def test_a_sign_test_by_hand():
    """Right wins four units and loses none: of 16 tosses, two are as extreme."""
    found = pairs(np.zeros(9), np.array([1.0] * 4 + [0.0] * 5))
    assert found.p_value(0, 10_000) == pytest.approx(2 / 16, abs=0.01)


def grouped(left, right, groups):
    units = [str(n) for n in range(len(left))]
    return PairedOutcomes.of(*(BootstrapMetric("m", units, each, mean_of, groups=groups) for each in (left, right)))


def test_units_of_a_group_change_places_together():
    """Right wins twelve units of four groups and loses none: of 16 tosses, two are as extreme."""
    left, right = np.zeros(14), np.array([1.0] * 12 + [0.0] * 2)
    found = grouped(left, right, [*(name for name in "abcd" for _ in range(3)), "e", "e"])
    assert found.p_value(0, 10_000) == pytest.approx(2 / 16, abs=0.01)
    assert found.values() == (0, 12 / 14)
    assert int(found.counts.sum()) == 14


def test_many_groups_are_simulated_and_agree_with_units_that_stand_for_them():
    rng = np.random.default_rng(0)
    left, right = rng.random(60), rng.random(60) + 0.1
    names = [f"group {n}" for n in range(60) for _ in range(3)]
    found, alone = grouped(np.repeat(left, 3), np.repeat(right, 3), names), pairs(left, right)
    assert found.p_value(0, 20_000) == pytest.approx(alone.p_value(0, 20_000), abs=0.01)
    assert found.interval(0, 20_000) == pytest.approx(alone.interval(0, 20_000), abs=0.01)


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
    assert {found["metric"] for found in compare_runs(left, same)} == {"IR@1", "IR@5", "IR@10", "IR median rank"}
    assert compare_runs(left, larger) == []


def test_only_units_that_both_have_are_compared():
    found = PairedOutcomes.of(measure(LEFT), measure(RIGHT, first=3))
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
    found = {each["metric"]: each for each in compare_runs(left, right)}
    assert list(found) == ["IR@1", "IR@5", "IR@10", "IR median rank"]
    first = found["IR@1"]
    assert (first["left"], first["right"], first["difference"], first["count"]) == (0.2, 1.0, pytest.approx(0.8), 5)
    assert first["p"] == pytest.approx(2 / 16, abs=0.02)
    assert first["interval"][0] < 0.8 < first["interval"][1] <= 1
    assert found["IR@10"]["p"] == 1
    other = records(tmp_path / "c", [1], variant="all")
    assert compare_runs(left, other) == []


def probed(folder, ranks, candidates=20, groups=()):
    """Stored predictions about images q0, q1, …, by the variant of their labels."""
    store = PredictionStore(folder)
    store.start()
    for variant, own in ranks.items():
        about = ("classification", "test", variant, "frozen", "ranks", "trained")
        file = PredictionFile(*about, part="image_to_class", facts={"candidates": candidates})
        more = [{"group": group} if group else {} for group in groups] or [{}] * len(own)
        samples = [
            {"query": f"q{n}", "rank": rank, "right": 1, "label": "a", "top": [], **more[n]}
            for n, rank in enumerate(own)
        ]
        store.add(file, samples)
    return [folder]


ACCURACY = MetricSpec(name="m", metric="acc@1")


def selected(folder, left, right, metric=ACCURACY, **more):
    sides = [probed(folder / name, ranks, **more) for name, ranks in (("left", left), ("right", right))]
    return compare_selected(metric, *sides, draws=2000)


def test_seeds_are_averaged_before_the_samples_of_all_are_paired(tmp_path):
    left = probed(tmp_path / "a", {"shape": [1, 2, 2, 1]}) + probed(tmp_path / "b", {"shape": [2, 2, 2, 1]})
    right = probed(tmp_path / "c", {"shape": [1, 1, 2, 1]}) + probed(tmp_path / "d", {"shape": [1, 1, 1]})
    found = compare_selected(ACCURACY, left, right)
    assert (found["count"], found["difference"]) == (3, pytest.approx((0.5 + 1.0 + 0.5) / 3))
    assert found["p"] == pytest.approx(2 / 8, abs=0.02)
    assert compare_selected(ACCURACY, left, []) is None
    assert compare_selected(MetricSpec(name="m", metric="IR@5"), left, right) is None
    assert compare_selected(MetricSpec(name="m", metric="acc@1", of="training"), left, right) is None
    assert compare_selected(MetricSpec(name="m", metric="acc@1 class mean"), left, right) is None


def test_selected_samples_of_one_group_are_one_pair(tmp_path):
    groups = ["a", "a", "a", "b", ""]
    found = selected(tmp_path, {"colour": [9, 9, 9, 1, 9]}, {"colour": [1, 1, 1, 1, 9]}, groups=groups)
    assert (found["count"], found["difference"]) == (3, pytest.approx(3 / 5))
    assert found["p"] == 1, "one group differs"


def test_a_sample_that_several_files_ask_about_is_one_pair(tmp_path):
    left, right = [1, 2, 2, 2, 1], [1, 1, 1, 2, 2]
    once = selected(tmp_path / "once", {"shape": left}, {"shape": right})
    twice = selected(tmp_path / "twice", {"shape": left, "colour": left}, {"shape": right, "colour": right})
    assert once["count"] == twice["count"] == 5
    assert once["difference"] == twice["difference"]
    assert once["p"] == pytest.approx(twice["p"], abs=0.05)


def test_the_difference_is_that_of_the_means_of_the_rows(tmp_path):
    """The second label is that of two images alone, and its row of the evaluation counts as much as the first."""
    found = selected(tmp_path, {"shape": [1, 2, 2, 2], "colour": [2, 2]}, {"shape": [1, 1, 2, 2], "colour": [1, 2]})
    assert (found["count"], found["difference"]) == (4, pytest.approx((0.5 + 0.5) / 2 - 0.25 / 2))


def test_selected_ranks_among_different_numbers_of_candidates_are_not_paired(tmp_path):
    small, large = (probed(tmp_path / str(count), {"shape": [1, 2]}, count) for count in (20, 40))
    assert compare_selected(ACCURACY, small, large) is None
    assert compare_selected(ACCURACY, small, small)["count"] == 2
