"""Sheets of ranks: recalls and median rank of retrieval, accuracies of classification.

A sample has ``query``, ``rank`` (1-based, of the best right answer), ``right`` (how many answers are right) and
``top`` (the encoder's best five answers); classification adds ``label`` and ``probability`` (of the true class).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcl_core.transfer import metrics
from lcl_core.transfer.records import IMAGE_TO_CLASS, IMAGE_TO_TEXT, TEXT_TO_IMAGE, Sheet
from lcl_core.transfer.scoring.measure import Measure

Samples = Sequence[dict[str, Any]]

RECALLS = (1, 5, 10)
ACCURACIES = (1, 5)
_SHORT = {IMAGE_TO_TEXT: "TR", TEXT_TO_IMAGE: "IR"}


def rank_measures(sheet: Sheet, samples: Samples) -> list[Measure]:
    """The measures of one sheet; its facts hold ``candidates`` and, for classes, ``train_counts``."""
    return (_accuracies if sheet.part == IMAGE_TO_CLASS else _recalls)(sheet, samples)


def _recalls(sheet: Sheet, samples: Samples) -> list[Measure]:
    rank, right = _column(samples, "rank"), _column(samples, "right")
    name, candidates = _SHORT[sheet.part], sheet.facts["candidates"]
    units = [sample["query"] for sample in samples]
    chance = metrics.chance_median_rank(candidates, right)
    found = [
        Measure(f"{name}@{k}", units, rank <= k, metrics.mean_of, metrics.chance_recall(candidates, right, k))
        for k in RECALLS
    ]
    return [*found, Measure(f"{name} median rank", units, rank, metrics.median_of, chance)]


def _accuracies(sheet: Sheet, samples: Samples) -> list[Measure]:
    rank, right = _column(samples, "rank"), _column(samples, "right")
    units = [sample["query"] for sample in samples]
    candidates = sheet.facts["candidates"]
    found = [
        Measure(
            f"acc@{k}", units, rank <= k, metrics.mean_of, metrics.chance_recall(candidates, right, k),
            _majority(sheet, samples, k),
        )
        for k in ACCURACIES
    ]  # fmt: skip
    by_class = np.stack([[_class_number(sample["label"]) for sample in samples], rank == 1], axis=1)
    return [*found, Measure("acc@1 class mean", units, by_class, class_mean, 1 / candidates)]


def _class_number(label: str) -> float:
    """The same in every run: 48 bits of a hash, which a float holds exactly."""
    return float(int.from_bytes(hashlib.blake2b(label.encode(), digest_size=6).digest()))


def class_mean(rows: metrics.Numbers, counts: metrics.Ints) -> metrics.Numbers:
    """The mean over classes of the mean within each: rows (class, value); a class that is not drawn does not count."""
    _, place = np.unique(rows[:, 0], return_inverse=True)
    member = np.eye(int(place.max()) + 1)[place]
    drawn, found = counts @ member, counts @ (member * rows[:, 1:])
    there = drawn > 0
    return np.where(there, found / np.maximum(drawn, 1), 0.0).sum(axis=1) / there.sum(axis=1)


def _majority(sheet: Sheet, samples: Samples, k: int) -> float | None:
    """None where nothing was learnt that has frequencies."""
    counts = sheet.facts.get("train_counts")
    if not counts:
        return None
    number = {name: place for place, name in enumerate(counts)}
    target = np.array([number[sample["label"]] for sample in samples], np.int64)
    return metrics.majority_accuracy(np.array(list(counts.values()), np.int64), target, k)


def _column(samples: Samples, name: str) -> metrics.Ints:
    return np.array([sample[name] for sample in samples], np.int64)
