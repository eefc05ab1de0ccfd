"""Sheets of classification that was learnt several times: means over the draws, and how much they differ.

A sample has ``query``, ``label`` and ``ranks``, of the true class in each draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lcl_core.transfer import metrics
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.scoring.measure import Measure
from lcl_core.transfer.scoring.ranks import ACCURACIES


def draw_measures(sheet: Sheet, samples: list[dict[str, Any]]) -> list[Measure]:
    """Accuracies; the unit is a picture with its mean over the draws, so intervals are those of the pictures alone."""
    ranks = np.array([sample["ranks"] for sample in samples], np.int64)  # [Q, draws]
    units = [sample["query"] for sample in samples]
    found = []
    for k in ACCURACIES:
        right = ranks <= k
        chance = min(k / sheet.facts["candidates"], 1.0)
        spread = float(right.mean(axis=0).std(ddof=1))
        found.append(Measure(f"acc@{k}", units, right.mean(axis=1), metrics.mean_of, chance, spread=spread))
    return found
