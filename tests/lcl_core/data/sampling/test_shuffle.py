"""Order by arithmetic."""

import itertools
from collections import Counter
from random import Random

import pytest

from lcl_core.common.errors import UserError
from lcl_core.data.sampling.shuffle import (
    FeistelPermutation,
    Mixture,
    interleave_evenly,
    mix64,
    mixture_quotas,
)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 4097])
def test_every_item_once(size):
    order = FeistelPermutation(size, 1, 2, 3)
    assert sorted(order[place] for place in range(size)) == list(range(size))
    assert len(order) == size


def test_keys_give_other_orders():
    orders = {
        tuple(FeistelPermutation(50, seed, source, epoch))
        for seed, source, epoch in itertools.product(range(3), repeat=3)
    }
    assert len(orders) == 27


def test_places_outside_are_refused():
    for place in (-1, 10):
        with pytest.raises(IndexError):
            FeistelPermutation(10, 0)[place]


def test_the_order_is_even():
    """Over many keys each item stands at each place about equally often."""
    size, keys = 10, 2000
    counts = Counter((place, FeistelPermutation(size, key)[place]) for key in range(keys) for place in range(size))
    assert len(counts) == size * size
    deviation = sum((count - keys / size) ** 2 / (keys / size) for count in counts.values())
    assert deviation < 2 * (size - 1) ** 2


def test_neighbours_are_torn_apart():
    order = FeistelPermutation(10_000, 7)
    steps = [abs(order[place + 1] - order[place]) for place in range(1000)]
    assert 3000 < sum(steps) / len(steps) < 3700, "a random order's steps are a third of the size"


def test_huge_sizes_cost_nothing():
    order = FeistelPermutation(10**12 + 7, 3)
    assert len({order[place] for place in range(1000)}) == 1000


def test_the_hash_is_fixed_for_ever():
    """A change would reorder the data of every run that is resumed."""
    assert mix64(0) == 0xE220A8397B1DCDAF  # splitmix64's published first output
    assert list(FeistelPermutation(10, 1, 2)) == [3, 4, 2, 0, 6, 9, 8, 5, 1, 7]
    assert mix64(1, 2) != mix64(2, 1)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1.0], [1]),
        ([1.0, 1.0], [1, 1]),
        ([2.0, 1.0], [2, 1]),
        ([0.5, 0.25, 0.25], [2, 1, 1]),
        ([0.7, 0.3], [7, 3]),
        ([1 / 3, 2 / 3], [1, 2]),
        ([1000.0, 1.0], [1000, 1]),
        ([1 / 1500, 1 / 70], [7, 150]),
        ([1 / 1800, 1 / 900], [1, 2]),
        ([1 / 1500, 1 / 1000], [2, 3]),
    ],
)
def test_simple_weights_are_exact(weights, shares):
    assert mixture_quotas(weights) == shares


@pytest.mark.parametrize(
    "weights", [[1000.0, 1e-4], [0.9973, 0.1234, 3.14159, 2.71828], [1e-7, 1e-7], [1.0] * 31 + [1e-3]]
)
def test_other_weights_are_close_and_none_vanishes(weights):
    shares = mixture_quotas(weights)
    assert min(shares) >= 1
    assert sum(shares) <= 4096 + len(weights)
    for weight, share in zip(weights, shares, strict=True):
        assert abs(share / sum(shares) - weight / sum(weights)) < 2 / 1000


def test_weights_by_mean_size_give_equal_shares():
    random = Random(0)
    for _ in range(30):
        sizes = [random.uniform(1, 2048), random.uniform(1, 2048)]
        amounts = [
            count * size for count, size in zip(mixture_quotas([1 / size for size in sizes]), sizes, strict=True)
        ]
        assert amounts[0] / sum(amounts) == pytest.approx(0.5, rel=0.01)


def test_a_cycle_is_spread_evenly():
    slots = interleave_evenly([3, 1])
    assert sorted(slots) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    sources = [source for source, _ in interleave_evenly([10, 5, 1])]
    for length in range(1, 16):
        for source, share in enumerate((10, 5, 1)):
            assert abs(sources[:length].count(source) - length * share / 16) <= 1
    for source, share in enumerate((10, 5, 1)):
        assert [rank for its, rank in interleave_evenly([10, 5, 1]) if its == source] == list(range(share))


def test_each_source_is_read_epoch_by_epoch():
    mixture = Mixture([10, 4], [2, 1], seed=0)
    places = [mixture[position] for position in range(300)]
    assert Counter(place.source for place in places) == {0: 200, 1: 100}
    for source, size, epochs in ((0, 10, 20), (1, 4, 25)):
        seen = [(place.epoch, place.index) for place in places if place.source == source]
        assert [epoch for epoch, _ in seen] == [epoch for epoch in range(epochs) for _ in range(size)]
        for epoch in range(epochs):
            assert sorted(index for its, index in seen if its == epoch) == list(range(size))
    orders = {
        tuple(place.index for place in places if (place.source, place.epoch) == (0, epoch)) for epoch in range(20)
    }
    assert len(orders) == 20


def test_sources_of_one_size_have_their_own_orders():
    places = [Mixture([20, 20], [1, 1], seed=0)[position] for position in range(40)]
    first, second = ([place.index for place in places if place.source == source] for source in (0, 1))
    assert first != second


def test_a_position_needs_no_history():
    forward = Mixture([10, 7, 3], [3, 2, 1], seed=5)
    expected = [forward[position] for position in range(200)]
    backward = Mixture([10, 7, 3], [3, 2, 1], seed=5)
    assert [backward[position] for position in reversed(range(200))] == expected[::-1]
    far = Mixture([10, 7, 3], [3, 2, 1], seed=5)[10**15]
    assert far.epoch > 10**12


def test_an_empty_source_is_refused():
    with pytest.raises(UserError):
        Mixture([5, 0], [1, 1], seed=0)
