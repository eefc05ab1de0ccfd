"""Fault schedule: a pure function of a seed, so that a trial can be repeated."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

SHORT_OUTAGE = (0.0, 0.4)


@dataclass(frozen=True)
class FaultKind:
    """How a kind of fault is.

    Attributes:
        weight: how often it comes, beside the others.
        away: for how many leases, from least to most, what it hits stays away.
    """

    weight: int
    away: tuple[float, float] = SHORT_OUTAGE


# a worker that is frozen comes back when it has lost its lease, alone or with its jobs as on a suspended machine; a
# database may be away for longer than one, or silent to one worker; a folder stays locked after its process's death
PROCESS_FAULTS = {
    "worker_killed": FaultKind(4),
    "worker_frozen": FaultKind(3, (1.3, 3.0)),
    "trainer_killed": FaultKind(4),
    "api_killed": FaultKind(2),
    "broker_killed": FaultKind(2),
    "postgres_killed": FaultKind(2, (0.0, 1.3)),
    "connections_cut": FaultKind(3),
    "black_hole": FaultKind(3, (0.3, 2.5)),
    "clock_gap": FaultKind(2, (0.3, 2.5)),
    "folder_locked": FaultKind(2, (0.5, 2.0)),
}
POSTGRES_FAULTS = ("postgres_killed", "connections_cut", "black_hole")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        lull: seconds of peace before it.
        draw: 0 to 1, chooses among what can be hit.
        away: leases until the part is started again or goes on.
    """

    kind: str
    lull: float
    draw: float
    away: float


def plan_faults(
    seed: int, count: int, natures: Mapping[str, FaultKind], lull: tuple[float, float] = (0.2, 1.6)
) -> list[Fault]:
    """``count`` faults; each kind comes at least once if there is room."""
    chance = random.Random(seed)
    chosen = list(natures)[:count]
    chosen += chance.choices(list(natures), [nature.weight for nature in natures.values()], k=count - len(chosen))
    chance.shuffle(chosen)
    return [Fault(kind, chance.uniform(*lull), chance.random(), chance.uniform(*natures[kind].away)) for kind in chosen]
