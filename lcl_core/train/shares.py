"""How much of the effective batch lies here: losses are means over all ranks and micro-batches together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lcl_core.model import PackedBatch
from lcl_core.objectives import Objective
from lcl_core.train.ranks import Ranks

CONTRASTIVE = "contrastive"


@dataclass(frozen=True)
class Shares:
    """What all ranks know of a step before it begins; counted on the host.

    Attributes:
        scales: by loss name, what its sum over this rank's items is multiplied with, so that the average over ranks
            (which is what DDP and FSDP make of gradients) is the mean over all items.
        pairs: contrastive pairs of each rank, all its micro-batches together.
    """

    scales: Mapping[str, float]
    pairs: Sequence[int]


def agree(objective: Objective, batches: Sequence[PackedBatch], ranks: Ranks, official: bool) -> Shares:
    """Count the items of all ranks.

    In ``official`` numerics every rank takes the mean over its own items, and the average of these means is biased
    towards ranks with few (lcl-spec defect 20); a mean over nothing is NaN there, and 0 otherwise.
    """
    own: dict[str, int] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            own[name] = own.get(name, 0) + count
    names = sorted(own)
    table = ranks.gather_numbers([own[name] for name in names])
    if official:
        scales = {name: 1 / own[name] if own[name] else float("nan") for name in names}
    else:
        totals = {name: sum(row[column] for row in table) for column, name in enumerate(names)}
        scales = {name: ranks.size / max(total, 1) for name, total in totals.items()}
    pairs = [row[names.index(CONTRASTIVE)] for row in table] if CONTRASTIVE in own else []
    return Shares(scales, pairs)
