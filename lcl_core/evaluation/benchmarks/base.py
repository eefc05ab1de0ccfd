"""Benchmark: its questions, stored answers, and the scores of its published rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lcl_core.common.errors import UserError


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question as the benchmark poses it.

    Attributes:
        id: unique in the benchmark.
        image: the picture as the files name it; for MMBench the row that holds it.
        text: the question, without options and without any prompt.
        truth: the right answers: one, or the ten that people gave.
        options: letter to text, in the order they are shown; empty for free answers.
        groups: what tables break the score down by, such as ``{"split": "random"}``.
    """

    id: str
    image: str
    text: str
    truth: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with what the model said; ``answer`` is none where it said nothing."""

    question: BenchmarkQuestion
    answer: str | None

    def to_dict(self) -> dict[str, Any]:
        """The sample as it is stored, a JSON object."""
        return {**asdict(self.question), "truth": list(self.question.truth), "answer": self.answer}

    @classmethod
    def from_dict(cls, sample: Mapping[str, Any]) -> AnsweredQuestion:
        """The sample again.

        Raises:
            UserError: ``records_unreadable``, when it is none of ours.
        """
        try:
            facts = {key: value for key, value in sample.items() if key != "answer"}
            return cls(BenchmarkQuestion(**{**facts, "truth": tuple(sample["truth"])}), sample["answer"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"a stored answer is not as it was written ({error}); evaluate again", code="records_unreadable"
            ) from None


@dataclass(frozen=True)
class BenchmarkScores:
    """What a benchmark's rule says of the answers.

    Attributes:
        metrics: every number; shares lie in [0, 1].
        samples: for each metric that is a mean, the value of each unit it is the mean of, by the unit's id. A
            unit is a question, or a picture or circle of questions where the rule counts those. Bootstrap and
            paired tests draw units.
        missing: ids of questions without an answer. They count as wrong.
        unread: ids of answers in which no choice was recognised. They count as wrong.
    """

    metrics: dict[str, float]
    samples: dict[str, dict[str, float]]
    missing: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


class Benchmark(ABC):
    """One benchmark."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """The questions from the official files.

        Raises:
            UserError: ``benchmark_unreadable``, naming the file and, where it has one, the line.
        """

    @abstractmethod
    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        """A pure function of stored answers; any order, one record a question."""


def pair_answers(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> list[AnsweredQuestion]:
    """Questions with their answers by id; those without are kept, with none."""
    return [AnsweredQuestion(question, answers.get(question.id)) for question in questions]


def missing_answers(records: Iterable[AnsweredQuestion]) -> list[str]:
    return [record.question.id for record in records if record.answer is None]


def mean_scores(samples: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric's units."""
    return {metric: sum(units.values()) / len(units) for metric, units in samples.items() if units}


def scores_by_group(
    name: str, correct: Mapping[str, float], records: Sequence[AnsweredQuestion], *by: str
) -> dict[str, dict[str, float]]:
    """``correct`` by question id: under ``name`` as a whole, and as ``name (value)`` for each value of a group."""
    samples: dict[str, dict[str, float]] = {name: dict(correct)}
    for group in by:
        for record in records:
            value = record.question.groups.get(group)
            if value is not None:
                samples.setdefault(f"{name} ({value})", {})[record.question.id] = correct[record.question.id]
    return samples
