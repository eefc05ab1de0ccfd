"""Paired comparison of two rows of a study, sample by sample, from the stored predictions of their evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from lcl_core.evaluation.metrics.core import BootstrapMetric, mean_of
from lcl_core.evaluation.results import PredictionFile, PredictionStore, metrics_of_file
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.statistics import PairedTest, paired_test


@dataclass(frozen=True)
class Question:
    """What a prediction file asks about one sample.

    Attributes:
        file: question of the prediction file.
        unit: the sample: a query, an image. Files that ask about the same sample have the same unit.
        candidates: number of images, texts or classes among which the sample is ranked; None where answers are free.
            A rank among more of them is another question.
        group: samples of one group, such as the images of one concept, are one pair; empty: the sample is one by
            itself. Two questions that differ in it alone are equal, since earlier versions stored no groups.
    """

    file: tuple[str, ...]
    unit: tuple[str, ...]
    candidates: int | None = None
    group: str = field(default="", compare=False)


Outcomes = Mapping[Question, float]
Measures = Sequence[tuple[PredictionFile, Sequence[BootstrapMetric]]]


def question_outcomes(metrics: Sequence[MetricSpec], records: Path) -> list[Outcomes]:
    """For each metric the contribution of every unit of which it is the mean; nothing for a metric that is no mean.

    Only the prediction files that a metric asks for are read and scored, with its name alone, and never by METEOR.

    Args:
        records: folder of the evaluation's stored predictions.

    Raises: UserError ``records_unreadable``.
    """

    def metric_names(sheet: PredictionFile) -> set[str]:
        if sheet.encoder != "trained":
            return set()
        return {metric.metric for metric in metrics if metric.of == "evaluation" and _matches(metric, sheet)}

    measured = [
        (sheet, metrics_of_file(sheet, samples, metric_names(sheet)))
        for _, sheet, samples in PredictionStore(records).read(metric_names)
    ]
    return [_outcomes(metric, measured) for metric in metrics]


def _outcomes(metric: MetricSpec, measured: Measures) -> Outcomes:
    if metric.of != "evaluation":
        return {}
    selected = [
        (sheet, measure)
        for sheet, measures in measured
        if _matches(metric, sheet)
        for measure in measures
        if measure.metric == metric.metric
    ]
    if any(measure.statistic is not mean_of for _, measure in selected):
        return {}
    return {
        Question(sheet.question, (*_sample_set(sheet), unit), sheet.facts.get("candidates"), group): float(value)
        for sheet, measure in selected
        for unit, group, value in zip(
            measure.units, measure.groups or [""] * len(measure.units), measure.values, strict=True
        )
    }


def _sample_set(sheet: PredictionFile) -> tuple[str, ...]:
    """Equal for the files whose units of one name are the same sample; benchmarks number questions of their own."""
    return sheet.split, sheet.part, str(sheet.facts.get("benchmark", ""))


def compare_outcomes(left: Sequence[Outcomes], right: Sequence[Outcomes]) -> PairedTest | None:
    """Right minus left over the samples of the questions that all have, outcomes averaged over the seeds first.

    A sample, or a group of samples, is one pair, however many files ask about it; the difference is that of the means
    of the files' means, as in the table. None when they have no question in common.
    """
    everyone = [*left, *right]
    shared = [question for question in everyone[0] if all(question in other for other in everyone)] if everyone else []
    if not shared or not left or not right:
        return None
    return paired_test(
        *(
            _pair_values({question: fmean(seed[question] for seed in side) for question in shared})
            for side in (left, right)
        )
    )


def _pair_values(outcomes: Outcomes) -> list[float]:
    """A value for each unit or group, weighted so that the mean of the values is the mean of the files' means."""
    files = Counter(question.file for question in outcomes)
    values: dict[Hashable, float] = {question.group or question.unit: 0.0 for question in outcomes}
    for question, outcome in outcomes.items():
        values[question.group or question.unit] += outcome * len(values) / (len(files) * files[question.file])
    return list(values.values())


def _matches(metric: MetricSpec, sheet: PredictionFile) -> bool:
    named = ("task", "split", "variant", "transfer")
    return all(getattr(metric, name) in (None, getattr(sheet, name)) for name in named)
