"""Which contents were seen before, exactly and by estimate."""

import numpy as np

from lcl_core.data.validation.report import HashSet


def test_the_first_is_new_and_the_second_known_also_within_one_call():
    seen = HashSet(1000)
    assert seen.add([5, 7, 5]).tolist() == [False, False, True]
    assert seen.add([7, 2**64 - 1, 0]).tolist() == [True, False, False]
    assert seen.add([]).tolist() == []
    assert (seen.duplicates, seen.distinct, seen.share) == (2, 4, 1)


def test_it_agrees_with_a_plain_set():
    draw = np.random.default_rng(0)
    seen, plain = HashSet(100_000), set[int]()
    for _ in range(200):
        batch = [int(value) for value in draw.integers(0, 4000, draw.integers(1, 90))]
        expected = []
        for value in batch:
            expected.append(value in plain)
            plain.add(value)
        assert seen.add(batch).tolist() == expected
    assert len(seen) == len(plain)


def test_memory_stays_within_the_capacity_and_the_count_becomes_an_estimate():
    draw = np.random.default_rng(1)
    seen = HashSet(2000)
    originals = draw.integers(0, 2**63, 20_000, np.uint64)
    for part in np.array_split(originals, 100):
        seen.add(part.tolist())
        assert len(seen) <= 2000
    assert seen.share <= 1 / 8
    assert abs(seen.distinct - 20_000) < 2000
    assert seen.duplicates == 0
    for part in np.array_split(originals, 100):
        seen.add(part.tolist())
    assert abs(seen.duplicates - 20_000) < 2000
