"""Which few pictures of each class are learnt from: seeded, and those of fewer shots are among those of more."""

from __future__ import annotations

import numpy as np

from lcl_core.transfer.labels import Labelled
from lcl_core.transfer.ranking import Ints


def draw_orders(teachers: Labelled, draws: int, seed: int) -> list[list[Ints]]:
    """For each draw, each class's pictures (places in ``teachers``) in a random order of its own.

    Draw d depends on the seed and d alone: more draws leave the earlier ones as they are.
    """
    classes = [np.flatnonzero(teachers.classes == number) for number in range(int(teachers.classes.max()) + 1)]
    generators = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [[generator.permutation(places) for places in classes] for generator in generators]


def few(teachers: Labelled, order: list[Ints], shots: int) -> Labelled:
    """The first ``shots`` pictures of each class; a class that has fewer gives all."""
    return teachers.choose(np.sort(np.concatenate([places[:shots] for places in order])))
