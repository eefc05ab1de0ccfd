"""Dialogue benchmarks by their name in the spec, and the metrics of stored answers.

Each module reads the official files and scores stored answers by the published rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, Benchmark, MetricContributions
from lcl_core.evaluation.benchmarks.multiple_choice import MMBench, ScienceQA, SEEDBench
from lcl_core.evaluation.benchmarks.vqa import GQA, OKVQA, VQA, TextVQA, VizWiz
from lcl_core.evaluation.benchmarks.yes_no import MME, POPE
from lcl_core.evaluation.metrics.core import BootstrapMetric, mean_of

BENCHMARKS: dict[str, Benchmark] = {
    each.name: each
    for each in (
        *(VQA(), GQA(), OKVQA(), TextVQA(), VizWiz()),
        *(ScienceQA(), POPE(), MME(), MMBench(), SEEDBench()),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: ``unknown_benchmark``.
    """
    if name not in BENCHMARKS:
        raise UserError(f"there is no benchmark {name}; there are {', '.join(BENCHMARKS)}", code="unknown_benchmark")
    return BENCHMARKS[name]


def benchmark_metrics(
    facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], only: Collection[str] | None = None
) -> list[BootstrapMetric]:
    """The published scores with bootstrap units, chance and majority.

    The majority is the score of one constant answer: the one that is correct most often.

    Args:
        facts: of the prediction file; ``benchmark`` is the name.
        samples: stored :class:`AnsweredQuestion` objects.
        only: names of the wanted metrics; chance and majority are not computed then.
    """
    benchmark = get_benchmark(facts["benchmark"])
    records = [AnsweredQuestion.from_dict(sample) for sample in samples]
    scores = benchmark.score(records)
    chance, majority = ({}, {}) if only is not None else (benchmark.chance(records), _majority(benchmark, records))
    contributions = benchmark.contributions(records, scores)
    special = {each.metric for each in contributions}
    contributions += [
        MetricContributions(metric, list(units), np.array(list(units.values())), mean_of)
        for metric, units in scores.samples.items()
        if metric not in special
    ]
    return [BootstrapMetric(*each, chance.get(each.metric), majority.get(each.metric)) for each in contributions]


def _majority(benchmark: Benchmark, records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    common, _ = Counter(truth for record in records for truth in record.question.truth).most_common(1)[0]
    return benchmark.score([AnsweredQuestion(record.question, common) for record in records]).metrics
