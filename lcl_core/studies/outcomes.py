"""Two rows compared question by question, from the answers that their evaluations stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lcl_core.specs import MetricSpec
from lcl_core.studies.statistics import Paired, paired
from lcl_core.transfer.metrics import mean_of
from lcl_core.transfer.records import Records, Sheet
from lcl_core.transfer.scoring.measure import Measure
from lcl_core.transfer.scoring.rows import measures_of

Question = tuple[str, ...]  # what the sheet asked, and the unit: a query, a picture
Outcomes = Mapping[Question, float]
Measures = Sequence[tuple[Sheet, Sequence[Measure]]]


def outcomes_of(metrics: Sequence[MetricSpec], records: Path) -> list[Outcomes]:
    """For each metric what every unit that it is the mean of contributes; nothing for one that is no mean of units.

    Args:
        records: folder of the evaluation's stored answers.

    Raises: UserError ``records_unreadable``.
    """
    answered = [(sheet, samples) for sheet, samples in Records(records).read() if sheet.encoder == "trained"]
    measured = [(sheet, measures_of(sheet, samples)) for sheet, samples in answered]
    return [_outcomes(metric, measured) for metric in metrics]


def _outcomes(metric: MetricSpec, measured: Measures) -> Outcomes:
    if metric.of != "evaluation":
        return {}
    return {
        (*sheet.question, unit): float(value)
        for sheet, measures in measured
        if _fits(metric, sheet)
        for measure in measures
        if measure.metric == metric.metric and measure.statistic is mean_of
        for unit, value in zip(measure.units, measure.values, strict=True)
    }


def compare_outcomes(left: Sequence[Outcomes], right: Sequence[Outcomes]) -> Paired | None:
    """Right minus left over the questions that all were asked, each question's outcomes averaged over the seeds first.

    None when they have no question in common.
    """
    everyone = [*left, *right]
    shared = [question for question in everyone[0] if all(question in other for other in everyone)] if everyone else []
    if not shared or not left or not right:
        return None
    return paired(*([fmean(seed[question] for seed in side) for question in shared] for side in (left, right)))


def _fits(metric: MetricSpec, sheet: Sheet) -> bool:
    named = ("task", "split", "variant", "transfer")
    return all(getattr(metric, name) in (None, getattr(sheet, name)) for name in named)
