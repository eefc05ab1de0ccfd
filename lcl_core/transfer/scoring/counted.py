"""Figures of dialogue benchmarks that are no means over questions, as statistics of units that can be drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lcl_core.transfer.answers import Answered, Scores
from lcl_core.transfer.answers.mme import AREAS
from lcl_core.transfer.metrics import Ints, Numbers, Statistic

Records = Sequence[Answered]


class Counted(NamedTuple):
    """A metric, its units [Q], what each contributes [Q, V], and the statistic of drawn units."""

    metric: str
    units: Sequence[str]
    values: Any
    statistic: Statistic


def counted(benchmark: str, records: Records, scores: Scores) -> list[Counted]:
    """The figures of ``benchmark`` beyond the means in ``scores.samples``."""
    rule = _RULES.get(benchmark)
    return [] if rule is None else rule(records, scores)


def _pope(records: Records, scores: Scores) -> list[Counted]:
    """Precision, recall and F1 are ratios of counts; the overall figures are means over the splits."""
    splits = list(dict.fromkeys(record.question.groups["split"] for record in records))
    values = np.zeros((len(records), len(splits), 4))
    for row, record in enumerate(records):
        split, number = record.question.groups["split"], record.question.id
        said = int(scores.samples[f"yes-rate ({split})"][number])
        right = int(scores.samples[f"accuracy ({split})"][number])
        values[row, splits.index(split), 2 * said + right] = 1
    units = [record.question.id for record in records]
    flat = values.reshape(len(units), -1)
    everywhere = list(range(len(splits)))
    found = [Counted(name, units, flat, _rate(name, everywhere)) for name in _RATES]
    for place, split in enumerate(splits):
        found += [
            Counted(f"{name} ({split})", units, flat, _rate(name, [place])) for name in ("precision", "recall", "F1")
        ]
    return found


def _rate(name: str, splits: list[int]) -> Statistic:
    """Mean over ``splits`` of a rate, from how often "no" was wrong and right, "yes" wrong and right in each."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        each = (counts @ distinct).reshape(len(counts), -1, 4)[:, splits]
        return _RATES[name](*np.moveaxis(each, -1, 0)).mean(axis=1)

    return statistic


def _accuracy(false_no: Numbers, true_no: Numbers, false_yes: Numbers, true_yes: Numbers) -> Numbers:
    return _ratio(true_no + true_yes, false_no + true_no + false_yes + true_yes)


def _precision(false_no: Numbers, true_no: Numbers, false_yes: Numbers, true_yes: Numbers) -> Numbers:
    return _ratio(true_yes, true_yes + false_yes)


def _recall(false_no: Numbers, true_no: Numbers, false_yes: Numbers, true_yes: Numbers) -> Numbers:
    return _ratio(true_yes, true_yes + false_no)


def _f1(false_no: Numbers, true_no: Numbers, false_yes: Numbers, true_yes: Numbers) -> Numbers:
    return _ratio(2 * true_yes, 2 * true_yes + false_yes + false_no)


def _yes_rate(false_no: Numbers, true_no: Numbers, false_yes: Numbers, true_yes: Numbers) -> Numbers:
    return _ratio(true_yes + false_yes, false_no + true_no + false_yes + true_yes)


_RATES: dict[str, Callable[..., Numbers]] = {
    "accuracy": _accuracy, "precision": _precision, "recall": _recall, "F1": _f1, "yes-rate": _yes_rate,
}  # fmt: skip


def _mme(records: Records, scores: Scores) -> list[Counted]:
    """100 (acc + acc+) of each subtask, and their sums over perception and cognition; what is drawn are pictures."""
    subtask = {record.question.image: record.question.groups["subtask"] for record in records}
    subtasks, pictures = list(dict.fromkeys(subtask.values())), list(subtask)
    row_of = {picture: row for row, picture in enumerate(pictures)}
    values = np.zeros((len(pictures), len(subtasks), 2))  # points and pictures of each subtask
    for record in records:
        name, picture = record.question.groups["subtask"], record.question.image
        points = scores.samples[f"acc ({name})"][record.question.id] + scores.samples[f"acc+ ({name})"][picture]
        values[row_of[picture], subtasks.index(name)] += (_HALF_OF_FULL * points, 0.5)
    flat = values.reshape(len(pictures), -1)
    sums = {area: [subtasks.index(name) for name in names if name in subtasks] for area, names in AREAS.items()}
    sums |= {f"score ({name})": [place] for place, name in enumerate(subtasks)}
    return [Counted(metric, pictures, flat, _points(places)) for metric, places in sums.items()]


_HALF_OF_FULL = 50.0  # each of a picture's two questions brings half of what the picture can


def _points(subtasks: list[int]) -> Statistic:
    """Sum over ``subtasks`` of the mean points of their pictures."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        points, times = np.moveaxis((counts @ distinct).reshape(len(counts), -1, 2), -1, 0)
        return _ratio(points, times)[:, subtasks].sum(axis=1)

    return statistic


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    """The quotient, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)


_RULES: dict[str, Callable[[Records, Scores], list[Counted]]] = {"pope": _pope, "mme": _mme}
