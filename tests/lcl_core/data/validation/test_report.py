"""Which contents were seen before, and bins of fixed edges."""

import math

import numpy as np

from lcl_core.data.validation.report import HashSet, Histogram


def test_hashes_agree_with_a_plain_set_up_to_the_capacity():
    draw = np.random.default_rng(0)
    seen, plain = HashSet(100_000), set()
    for _ in range(200):
        batch = [int(value) for value in draw.integers(0, 4000, draw.integers(0, 90))]
        expected = []
        for value in batch:
            expected.append(value in plain)
            plain.add(value)
        assert seen.add(batch).tolist() == expected
    assert len(seen) == len(plain)
    few = HashSet(3)
    few.add([1, 2**64 - 1])
    few.add([3, 4])
    assert few.add([1, 2**64 - 1, 3, 4]).tolist() == [True, True, True, False]


def test_a_value_on_an_edge_belongs_to_the_bin_above_and_one_outside_to_the_nearest():
    histogram = Histogram.of([0, 1, 2, 4], "images")
    for value in (0, 0.5, 1, 2, 3, 4, -5, 99, math.nan, math.inf):
        histogram.add(value)
    assert histogram.counts == [3, 1, 4]
    assert (histogram.count, histogram.total, histogram.least, histogram.most) == (8, 104.5, -5, 99)
