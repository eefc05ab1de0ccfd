"""Validation split: a seeded tenth of the training examples, apart from the others."""

from __future__ import annotations

from lcl_core.evaluation.tasks.base import split_validation


def test_a_tenth_is_held_out_and_nothing_is_lost() -> None:
    test, train = split_validation(40, seed=1)
    assert (len(test), len(train)) == (4, 36)
    assert sorted([*test, *train]) == list(range(40))
    assert sorted(test) == test.tolist()
    assert sorted(train) == train.tolist()


def test_the_seed_decides_which() -> None:
    first, again, other = (split_validation(40, seed=seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_few_examples_still_spare_one() -> None:
    test, train = split_validation(3, seed=0)
    assert (len(test), len(train)) == (1, 2)
    assert [len(part) for part in split_validation(3, seed=0, minimum=2)] == [2, 1]
