"""The same documents split into batches in several ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.base import Objective
from lcl_core.specs.pretrain import METHODS

PAIR_METHODS = tuple(name for name, method in METHODS.items() if "documents" not in method.reads)


def key_of(number: int) -> int:
    """What the random choices about a document come from; too large for a signed number."""
    return 7**20 + 2**63 + number


def partition_batches(
    objective: Objective, rows: Sequence[Tensor], pixels: Tensor, config: LCLConfig, hands: Sequence[Sequence[int]]
) -> list[PackedBatch]:
    """A batch for each hand: numbers of rows. ``pixels``: the images of all rows, in order."""
    images = pixels.split([int((row == config.soi_token_id).sum()) for row in rows])
    return [
        objective.collate(
            [rows[number] for number in hand],
            torch.cat([images[number] for number in hand]),
            config,
            keys=[key_of(number) for number in hand],
        )
        for hand in hands
    ]
