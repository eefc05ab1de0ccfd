"""Questions of a benchmark with given answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion


def pair_answers(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> list[AnsweredQuestion]:
    """Questions with their answers by id, None where there is none."""
    return [AnsweredQuestion(question, answers.get(question.id)) for question in questions]
