"""The simulated fleet: a run of several nodes starts soon among busy workers, and hardly anybody idles for it."""

from __future__ import annotations

import pytest

from benchmarks.scheduler import simulate

pytestmark = pytest.mark.extended


def test_a_gang_starts_among_busy_workers() -> None:
    day = simulate(workers=16, nodes=4, seed=1, hours=4.0)
    assert (day.submitted, len(day.waits)) == (1, 1)
    assert day.waits[0] <= 90 * 60
    assert day.idle_share <= 0.03
    assert day.backfilled > 0, "waiting workers run what is short enough"
