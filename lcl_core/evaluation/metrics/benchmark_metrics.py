"""Metrics of stored benchmark answers: the published scores with bootstrap units, chance level and majority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkScores, mean_scores, scores_by_group
from lcl_core.evaluation.benchmarks.mme import AREAS
from lcl_core.evaluation.benchmarks.registry import get_benchmark
from lcl_core.evaluation.metrics.core import BootstrapMetric, Ints, Numbers, Statistic, mean_of
from lcl_core.evaluation.predictions import PredictionFile

Records = Sequence[AnsweredQuestion]

_HALF = 0.5
_MME_SUBTASK = 75.0  # 100 (acc + acc+): one of two, and both of two


def chance_levels(benchmark: str, records: Records) -> dict[str, float]:
    """By the metrics' names, those that chance says something of."""
    rule = _CHANCE_RULES.get(benchmark)
    return {} if rule is None else rule(records)


def _chance_choices(records: Records) -> dict[str, float]:
    """One of the options, each as likely."""
    return _chance_by_group(
        "accuracy", {record.question.id: 1 / len(record.question.options) for record in records}, records
    )


def _chance_circular(records: Records) -> dict[str, float]:
    """All turns of a question right; a question's first turn stands for it."""
    together: dict[str, float] = {}
    first: dict[str, AnsweredQuestion] = {}
    for record in sorted(records, key=lambda record: int(record.question.groups["turn"])):
        circle = record.question.groups["circle"]
        together[circle] = together.get(circle, 1.0) / len(record.question.options)
        first.setdefault(circle, record)
    heads = list(first.values())
    circular = {record.question.id: together[circle] for circle, record in first.items()}
    vanilla = mean_scores({"vanilla accuracy": {each.question.id: 1 / len(each.question.options) for each in heads}})
    return _chance_by_group("accuracy", circular, heads) | vanilla


def _chance_yes_no(records: Records) -> dict[str, float]:
    """POPE: the share of "yes" that is right is the share of questions whose answer is yes."""
    splits: dict[str, list[bool]] = {}
    for record in records:
        splits.setdefault(record.question.groups["split"], []).append(record.question.truth[0] == "yes")
    each = {split: _coin_flip_rates(sum(truths) / len(truths)) for split, truths in splits.items()}
    overall = {name: sum(rates[name] for rates in each.values()) / len(each) for name in next(iter(each.values()))}
    return overall | {f"{name} ({split})": value for split, rates in each.items() for name, value in rates.items()}


def _coin_flip_rates(yes: float) -> dict[str, float]:
    return {
        "accuracy": _HALF, "yes-rate": _HALF, "recall": _HALF, "precision": yes, "F1": 2 * yes * _HALF / (yes + _HALF),
    }  # fmt: skip


def _chance_mme(records: Records) -> dict[str, float]:
    subtasks = {record.question.groups["subtask"] for record in records}
    found = {f"{metric} ({name})": value for name in subtasks for metric, value in _MME_EACH.items()}
    return found | {area: _MME_SUBTASK * len(subtasks & set(names)) for area, names in AREAS.items()}


_MME_EACH = {"acc": _HALF, "acc+": _HALF**2, "score": _MME_SUBTASK}


def _chance_by_group(name: str, each: dict[str, float], records: Records) -> dict[str, float]:
    groups = dict.fromkeys(group for record in records for group in record.question.groups)
    return mean_scores(scores_by_group(name, each, records, *groups))


_CHANCE_RULES: dict[str, Callable[[Records], dict[str, float]]] = {
    "scienceqa-img": _chance_choices,
    "seed-bench": _chance_choices,
    "mmbench": _chance_circular,
    "pope": _chance_yes_no,
    "mme": _chance_mme,
}


class MetricContributions(NamedTuple):
    """A metric, its units [Q], what each contributes [Q, V], and the statistic of drawn units."""

    metric: str
    units: Sequence[str]
    values: Any
    statistic: Statistic


def metric_contributions(benchmark: str, records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
    """The figures of ``benchmark`` beyond the means in ``scores.samples``."""
    rule = _CONTRIBUTION_RULES.get(benchmark)
    return [] if rule is None else rule(records, scores)


def _pope_contributions(records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
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
    found = [MetricContributions(name, units, flat, _mean_rate(name, everywhere)) for name in _RATES]
    for place, split in enumerate(splits):
        found += [
            MetricContributions(f"{name} ({split})", units, flat, _mean_rate(name, [place]))
            for name in ("precision", "recall", "F1")
        ]
    return found


def _mean_rate(name: str, splits: list[int]) -> Statistic:
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


def _mme_contributions(records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
    """100 (acc + acc+) of each subtask, and their sums over perception and cognition; what is drawn are pictures."""
    subtask = {record.question.image: record.question.groups["subtask"] for record in records}
    subtasks, pictures = list(dict.fromkeys(subtask.values())), list(subtask)
    row_of = {picture: row for row, picture in enumerate(pictures)}
    values = np.zeros((len(pictures), len(subtasks), 2))  # points and pictures of each subtask
    for record in records:
        name, picture = record.question.groups["subtask"], record.question.image
        points = scores.samples[f"acc ({name})"][record.question.id] + scores.samples[f"acc+ ({name})"][picture]
        values[row_of[picture], subtasks.index(name)] += (_POINTS_PER_ANSWER * points, 0.5)
    flat = values.reshape(len(pictures), -1)
    sums = {area: [subtasks.index(name) for name in names if name in subtasks] for area, names in AREAS.items()}
    sums |= {f"score ({name})": [place] for place, name in enumerate(subtasks)}
    return [MetricContributions(metric, pictures, flat, _total_points(places)) for metric, places in sums.items()]


_POINTS_PER_ANSWER = 50.0  # each of a picture's two questions brings half of what the picture can


def _total_points(subtasks: list[int]) -> Statistic:
    """Sum over ``subtasks`` of the mean points of their pictures."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        points, times = np.moveaxis((counts @ distinct).reshape(len(counts), -1, 2), -1, 0)
        return _ratio(points, times)[:, subtasks].sum(axis=1)

    return statistic


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    """The quotient, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)


_CONTRIBUTION_RULES: dict[str, Callable[[Records, BenchmarkScores], list[MetricContributions]]] = {
    "pope": _pope_contributions,
    "mme": _mme_contributions,
}


Samples = Sequence[dict[str, Any]]


def benchmark_metrics(sheet: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    """The measures of one sheet."""
    name = sheet.facts["benchmark"]
    records = [AnsweredQuestion.from_dict(sample) for sample in samples]
    scores = get_benchmark(name).score(records)
    majority = get_benchmark(name).score(_constant_answers(records)).metrics
    chance = chance_levels(name, records)

    def measure(metric: str, units: Sequence[str], values: Any, statistic: Statistic) -> BootstrapMetric:
        return BootstrapMetric(metric, units, values, statistic, chance.get(metric), majority.get(metric))

    found = [measure(*each) for each in metric_contributions(name, records, scores)]
    known = {each.metric for each in found}
    for metric, units in scores.samples.items():
        if metric not in known:
            found.append(measure(metric, list(units), np.array(list(units.values())), mean_of))
    return found


def _constant_answers(records: Sequence[AnsweredQuestion]) -> list[AnsweredQuestion]:
    """Every question answered with what is right most often."""
    common, _ = Counter(truth for record in records for truth in record.question.truth).most_common(1)[0]
    return [AnsweredQuestion(record.question, common) for record in records]
