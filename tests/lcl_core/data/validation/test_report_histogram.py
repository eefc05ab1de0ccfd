"""Bins of fixed edges."""

import math

from lcl_core.data.validation.report import Histogram, doubling_edges


def test_a_value_on_an_edge_belongs_to_the_bin_above():
    histogram = Histogram.of([0, 1, 2, 4], "images")
    for value in (0, 0.5, 1, 2, 3, 4):
        histogram.add(value)
    assert histogram.counts == [2, 1, 3]
    assert (histogram.count, histogram.mean, histogram.least, histogram.most) == (6, 10.5 / 6, 0, 4)


def test_what_lies_outside_counts_in_the_nearest_bin_and_no_number_in_none():
    histogram = Histogram.of([0, 1, 2], "x")
    for value in (-5, 99, math.nan, math.inf):
        histogram.add(value)
    assert histogram.counts == [1, 1]
    assert (histogram.least, histogram.most) == (-5, 99)


def test_parts_add_up_to_the_whole():
    whole, first, second = (Histogram.of(doubling_edges(4), "x") for _ in range(3))
    for value in range(20):
        whole.add(value)
        (first if value % 3 else second).add(value)
    first.merge(Histogram.of(doubling_edges(4), "x"))
    first.merge(second)
    assert first == whole
    empty = Histogram.of(doubling_edges(4), "x")
    empty.merge(whole)
    assert empty == whole
