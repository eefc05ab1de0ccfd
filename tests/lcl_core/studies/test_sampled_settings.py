"""Random settings: the same for the same seed, within their ranges, spread as they should be."""

import math

from lcl_core.specs.parsing import parse_as
from lcl_core.specs.study import RandomSearch
from lcl_core.studies.trials import sample_settings


def search(trials, parameters, seed=0):
    return parse_as(RandomSearch, {"kind": "random", "trials": trials, "seed": seed, "parameters": parameters})


RATE = {"optimizer.lr": {"kind": "log-uniform", "low": 1e-5, "high": 1e-1}}


def test_the_same_seed_draws_the_same_and_more_trials_begin_with_the_same():
    assert sample_settings(search(5, RATE)) == sample_settings(search(9, RATE))[:5]
    assert sample_settings(search(5, RATE)) != sample_settings(search(5, RATE, seed=1))


def test_a_parameter_draws_the_same_whatever_stands_beside_it():
    first = {"batch.images": {"kind": "uniform", "low": 8, "high": 64, "integer": True}}
    one, other = sample_settings(search(3, {**first, **RATE})), sample_settings(search(3, {**RATE, **first}))
    assert one == other


def test_log_uniform_gives_each_order_of_magnitude_the_same_share():
    values = [setting["optimizer.lr"] for setting in sample_settings(search(1000, RATE))]
    assert min(values) >= 1e-5
    assert max(values) <= 1e-1
    decades = [sum(math.floor(math.log10(value)) == decade for value in values) for decade in (-5, -4, -3, -2)]
    assert all(195 < count < 300 for count in decades), decades  # 250 expected, sd 14


def test_uniform_and_whole_numbers():
    half = sample_settings(search(400, {"patch_drop": {"kind": "uniform", "low": 0.0, "high": 0.5}}))
    assert 0.23 < sum(setting["patch_drop"] for setting in half) / len(half) < 0.27
    whole = sample_settings(
        search(200, {"batch.images": {"kind": "uniform", "low": 2.5, "high": 5.4, "integer": True}})
    )
    assert {setting["batch.images"] for setting in whole} == {3, 4, 5}


def test_equal_settings_are_tried_once():
    found = sample_settings(search(50, {"numerics": {"kind": "choice", "values": ["fixed", "official"]}}))
    assert sorted(setting["numerics"] for setting in found) == ["fixed", "official"]
