"""How many checkpoints lie on the disk when a run has ended."""

from __future__ import annotations

import math


def kept_checkpoints(steps: int, every: int, keep: int, milestone_every: int | None) -> int:
    """Of those written after each ``every`` steps and after the last one: the newest ``keep``, and milestones."""
    newest = [steps, *range(steps - (steps % every or every), 0, -every)[: keep - 1]]
    if milestone_every is None:
        return len(newest)
    common = math.lcm(every, milestone_every)
    also_last = steps % milestone_every == 0 and steps % every != 0
    among_newest = sum(step % milestone_every == 0 for step in newest)
    return len(newest) + steps // common + also_last - among_newest
