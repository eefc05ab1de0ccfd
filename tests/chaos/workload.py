"""Runs that are submitted during a trial: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.chaos.toy_job import TOY_SEEDS
from tests.small_spec import SMALL_PRETRAIN


class Role(StrEnum):
    PLAIN = "plain"
    URGENT = "urgent"  # with a priority
    FOLLOWER = "follower"  # comes after an earlier one
    PAUSED = "paused"  # and let go on
    CANCELLED = "cancelled"
    FRAGILE = "fragile"  # fails with the first worker that it loses, and is resumed
    REAL = "real"  # the product's own pre-training


WEIGHTS = {Role.PLAIN: 5, Role.URGENT: 2, Role.FOLLOWER: 3, Role.PAUSED: 3, Role.CANCELLED: 3, Role.FRAGILE: 2}
REAL_SPEC: dict[str, Any] = {**SMALL_PRETRAIN, "steps": 30, "checkpoint_every": 4, "seed": 7}
STEPS = (30, 220)
MANY_ATTEMPTS = 100  # attempts


@dataclass(frozen=True)
class PlannedRun:
    """A run to be.

    Attributes:
        key: Idempotency-Key.
        after: the number of the order that it comes after.
        linger: seconds from the answer to what its role asks for.
    """

    number: int
    role: Role
    key: str
    spec: Mapping[str, Any]
    priority: int
    max_attempts: int
    after: int | None
    linger: float


def plan_runs(seed: int, count: int, real: int = 0) -> list[PlannedRun]:
    """``count`` orders, of which ``real`` train a model: in the first half, so that they see what is to come."""
    chance = random.Random(seed)
    roles = list(WEIGHTS)[: count - real]
    roles += chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count - real - len(roles))
    chance.shuffle(roles)
    for number in range(real):
        roles.insert(number * count // (2 * real), Role.REAL)
    return [_planned_run(chance, seed, number, role) for number, role in enumerate(roles)]


def _planned_run(chance: random.Random, seed: int, number: int, role: Role) -> PlannedRun:
    toy = {
        "steps": chance.randint(*STEPS),
        "checkpoint_every": chance.choice((3, 7, 10)),
        "seed": TOY_SEEDS + 1000 * (seed % 1000) + number,
    }
    return PlannedRun(
        number=number,
        role=role,
        key=f"chaos-{seed}-{number}",
        spec=REAL_SPEC if role is Role.REAL else toy,
        priority=chance.randint(1, 100) if role in (Role.URGENT, Role.REAL) else 0,
        max_attempts=1 if role is Role.FRAGILE else MANY_ATTEMPTS,
        after=chance.randrange(number) if role is Role.FOLLOWER and number else None,
        linger=chance.uniform(0.0, 6.0),
    )
