"""The front of what is worth its cost."""

import random

from lcl_core.studies.statistics import pareto_front


def test_the_front_by_hand():
    points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.1), (5.0, 0.9), (4.0, 0.6)]
    assert pareto_front(points) == [1, 2, 4]
    assert pareto_front(points, "lower") == [1, 3]
    assert pareto_front([]) == []


def test_of_equal_points_one_stands_for_both():
    assert pareto_front([(1.0, 0.5), (1.0, 0.5), (1.0, 0.7)]) == [2]


def test_the_front_is_what_nothing_beats():
    rng = random.Random(2)
    points = [(rng.random(), rng.random()) for _ in range(60)]
    beaten = {
        place
        for place, (cost, quality) in enumerate(points)
        if any(other[0] <= cost and other[1] >= quality and other != (cost, quality) for other in points)
    }
    assert set(pareto_front(points)) == set(range(60)) - beaten
