"""From stored answers to the table's rows. No model is needed, so scores can be made again at any time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.transfer import metrics
from lcl_core.transfer.records import Records, Sheet

RECALLS = (1, 5, 10)
ACCURACIES = (1, 5)
_SHORT = {"image_to_text": "TR", "text_to_image": "IR", "image_to_class": "acc"}


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        metric: ``TR@k`` and ``IR@k`` (image → text, text → image), ``TR median rank`` …, ``acc@k``.
        value: of the trained encoder; shares lie in [0, 1].
        interval: 95 % bootstrap interval of ``value`` over the queries.
        chance: what a random answer reaches, by arithmetic.
        majority: classification: what naming the most frequent training classes reaches.
        untrained: the same architecture with its initial weights, through the same code; none if not asked
            for.
        count: queries.
        candidates: answers each query chose from.
        left_out: pictures not asked about, by reason.
    """

    task: str
    split: str
    variant: str
    metric: str
    value: float
    interval: tuple[float, float]
    chance: float
    majority: float | None
    untrained: float | None
    untrained_interval: tuple[float, float] | None
    count: int
    candidates: int
    left_out: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}


@dataclass(frozen=True)
class _Score:
    metric: str
    value: float
    interval: tuple[float, float]
    chance: float
    majority: float | None = None


def score(folder: Path, *, seed: int) -> list[Row]:
    """Score the records in ``folder``, trained beside untrained; ``seed`` drives the bootstrap."""
    sheets = [(sheet, list(_scores(sheet, samples, seed)), len(samples)) for sheet, samples in Records(folder).read()]
    twins = {
        (*_question(sheet), each.metric): each
        for sheet, scores, _ in sheets
        if sheet.encoder == "untrained"
        for each in scores
    }
    rows = []
    for sheet, scores, count in sheets:
        if sheet.encoder == "trained":
            rows += [_row(sheet, each, twins.get((*_question(sheet), each.metric)), count) for each in scores]
    return rows


def _question(sheet: Sheet) -> tuple[str, str, str, str]:
    return sheet.task, sheet.split, sheet.variant, sheet.direction


def _row(sheet: Sheet, own: _Score, twin: _Score | None, count: int) -> Row:
    return Row(
        task=sheet.task,
        split=sheet.split,
        variant=sheet.variant,
        metric=own.metric,
        value=own.value,
        interval=own.interval,
        chance=own.chance,
        majority=own.majority,
        untrained=None if twin is None else twin.value,
        untrained_interval=None if twin is None else twin.interval,
        count=count,
        candidates=sheet.candidates,
        left_out=sheet.left_out,
    )


def _scores(sheet: Sheet, samples: list[dict[str, Any]], seed: int) -> Iterator[_Score]:
    rank = np.array([sample["rank"] for sample in samples], np.int64)
    right = np.array([sample["right"] for sample in samples], np.int64)
    name = _SHORT[sheet.direction]
    classify = sheet.direction == "image_to_class"
    for k in ACCURACIES if classify else RECALLS:
        yield _Score(
            f"{name}@{k}",
            metrics.recall_at(rank, k),
            metrics.bootstrap_interval(rank <= k, metrics.mean_of, seed=seed),
            metrics.chance_recall(sheet.candidates, right, k),
            _majority(sheet, samples, k) if classify else None,
        )
    if not classify:
        yield _Score(
            f"{name} median rank",
            metrics.median_rank(rank),
            metrics.bootstrap_interval(rank, metrics.median_of, seed=seed),
            metrics.chance_median_rank(sheet.candidates, right),
        )


def _majority(sheet: Sheet, samples: list[dict[str, Any]], k: int) -> float:
    number = {name: place for place, name in enumerate(sheet.train_counts)}
    target = np.array([number[sample["label"]] for sample in samples], np.int64)
    return metrics.majority_accuracy(np.array(list(sheet.train_counts.values()), np.int64), target, k)
