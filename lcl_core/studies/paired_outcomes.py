"""Paired comparison of two rows of a study, sample by sample, from the stored predictions of their evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lcl_core.evaluation.metrics import BootstrapMetric, mean_of
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
            itself.
    """

    file: tuple[str, ...]
    unit: tuple[str, ...]
    candidates: int | None = None
    group: str = ""


Outcomes = Mapping[Question, float]


def question_outcomes(metrics: Sequence[MetricSpec], records: Path) -> list[Outcomes]:
    """For each metric the contribution of every unit of which it is the mean; nothing for a metric that is no mean.

    Only the prediction files that a metric asks for are read and scored.

    Args:
        records: folder of the evaluation's stored predictions.
    """

    def asks(metric: MetricSpec, sheet: PredictionFile) -> bool:
        named = ("task", "split", "variant", "transfer")
        return metric.of == "evaluation" and all(
            getattr(metric, name) in (None, getattr(sheet, name)) for name in named
        )

    def is_asked_for(sheet: PredictionFile) -> bool:
        return sheet.encoder == "trained" and any(asks(metric, sheet) for metric in metrics)

    measured = [
        (sheet, metrics_of_file(sheet, samples, baselines=False))
        for _, sheet, samples in PredictionStore(records).read(is_asked_for)
    ]
    outcomes = []
    for metric in metrics:
        selected = [
            (sheet, measure)
            for sheet, measures in measured
            if asks(metric, sheet)
            for measure in measures
            if measure.metric == metric.metric
        ]
        means = all(measure.statistic is mean_of for _, measure in selected)
        outcomes.append(_outcomes_of(selected) if means else {})
    return outcomes


def _outcomes_of(selected: Sequence[tuple[PredictionFile, BootstrapMetric]]) -> Outcomes:
    outcomes = {}
    for sheet, measure in selected:
        # Units of one name are the same sample in files of the same split and part; benchmarks number their own.
        samples = (sheet.split, sheet.part, str(sheet.facts.get("benchmark", "")))
        groups = measure.groups or [""] * len(measure.units)
        for unit, group, value in zip(measure.units, groups, measure.values, strict=True):
            question = Question(sheet.question, (*samples, unit), sheet.facts.get("candidates"), group)
            outcomes[question] = float(value)
    return outcomes


def compare_outcomes(left: Sequence[Outcomes], right: Sequence[Outcomes]) -> PairedTest | None:
    """Right minus left over the samples of the questions that all have, outcomes averaged over the seeds first.

    A sample, or a group of samples, is one pair, however many files ask about it; the difference is that of the means
    of the files' means, as in the table. None when they have no question in common.
    """
    everyone = [*left, *right]
    shared = [question for question in everyone[0] if all(question in other for other in everyone)] if everyone else []
    if not shared or not left or not right:
        return None
    files = Counter(question.file for question in shared)
    pairs: dict[Hashable, tuple[float, float]] = {question.group or question.unit: (0.0, 0.0) for question in shared}
    for question in shared:
        # weighted so that the mean over the pairs is the mean of the files' means
        weight = len(pairs) / (len(files) * files[question.file])
        before, after = (weight * fmean(seed[question] for seed in side) for side in (left, right))
        pair = pairs[question.group or question.unit]
        pairs[question.group or question.unit] = pair[0] + before, pair[1] + after
    return paired_test(*map(list, zip(*pairs.values(), strict=True)))
