"""Paired comparison of two rows of a study, question by question, from the stored predictions of their evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lcl_core.evaluation.metrics.core import BootstrapMetric, mean_of
from lcl_core.evaluation.results import PredictionFile, PredictionStore, metrics_of_file
from lcl_core.specs.study import MetricSpec
from lcl_core.studies.statistics import PairedTest, paired_test

Question = tuple[str, ...]  # question of the prediction file, and the unit: a query, an image
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
    return {
        (*sheet.question, unit): float(value)
        for sheet, measures in measured
        if _matches(metric, sheet)
        for measure in measures
        if measure.metric == metric.metric and measure.statistic is mean_of
        for unit, value in zip(measure.units, measure.values, strict=True)
    }


def compare_outcomes(left: Sequence[Outcomes], right: Sequence[Outcomes]) -> PairedTest | None:
    """Right minus left over the questions that all have, each question's outcomes averaged over the seeds first.

    None when they have no question in common.
    """
    everyone = [*left, *right]
    shared = [question for question in everyone[0] if all(question in other for other in everyone)] if everyone else []
    if not shared or not left or not right:
        return None
    return paired_test(*([fmean(seed[question] for seed in side) for question in shared] for side in (left, right)))


def _matches(metric: MetricSpec, sheet: PredictionFile) -> bool:
    named = ("task", "split", "variant", "transfer")
    return all(getattr(metric, name) in (None, getattr(sheet, name)) for name in named)
