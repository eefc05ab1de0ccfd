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
        widest: columns of the longest text that any of them offers to the others.
    """

    scales: Mapping[str, float]
    pairs: Sequence[int]
    widest: int


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
    widest = max(objective.widest(batch) for batch in batches)
    *table, widths = zip(*ranks.gather_numbers([*(own[name] for name in names), widest]), strict=True)
    if official:
        scales = {name: 1 / own[name] if own[name] else float("nan") for name in names}
    else:
        scales = {name: ranks.size / max(sum(counts), 1) for name, counts in zip(names, table, strict=True)}
    pairs = table[names.index(CONTRASTIVE)] if CONTRASTIVE in own else []
    return Shares(scales, pairs, max(widths))
