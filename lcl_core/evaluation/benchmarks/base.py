"""Benchmark: its questions, prompts, stored answers, and the scores of its published rule.

Prompts are those that LLaVA-1.5 published, which the paper follows: docs/Evaluation.md of github.com/haotian-liu/LLaVA;
for VizWiz, ScienceQA and MME its evaluation files and the defaults of github.com/EvolvingLMMs-Lab/lmms-eval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics.core import Statistic

SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
LETTER_PROMPT = "\nAnswer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question.

    Attributes:
        id: unique in the benchmark.
        image: the image's name in the files; for MMBench the number of the table row that holds it.
        text: the question, without options and prompt.
        truth: the correct answer, or the ten human answers.
        options: letter to text, in display order; empty for free answers.
        groups: how tables break the score down, such as ``{"split": "random"}``.
    """

    id: str
    image: str
    text: str
    truth: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with the model's answer; None where it gave none."""

    question: BenchmarkQuestion
    answer: str | None

    def to_dict(self) -> dict[str, Any]:
        """The stored sample, a JSON object."""
        return {**asdict(self.question), "truth": list(self.question.truth), "answer": self.answer}

    @classmethod
    def from_dict(cls, sample: Mapping[str, Any]) -> AnsweredQuestion:
        """Inverse of :meth:`to_dict`.

        Raises:
            UserError: ``records_unreadable``.
        """
        try:
            fields = {key: value for key, value in sample.items() if key != "answer"}
            return cls(BenchmarkQuestion(**{**fields, "truth": tuple(sample["truth"])}), sample["answer"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"a stored answer is not as it was written ({error}); evaluate again", code="records_unreadable"
            ) from None


Records = Sequence[AnsweredQuestion]
Samples = dict[str, dict[str, float]]


@dataclass(frozen=True)
class BenchmarkScores:
    """Scores of a benchmark's rule.

    Attributes:
        metrics: every number; shares lie in [0, 1].
        samples: for each metric that is a mean, the value of each unit by the unit's id. A unit is a question, or an
            image or circle of questions where the rule counts those; bootstrap and paired tests draw units.
        missing: ids of questions without an answer; they count as wrong.
        unread: ids of answers in which no option was recognised; they count as wrong.
    """

    metrics: dict[str, float]
    samples: Samples
    missing: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def of_means(cls, samples: Samples, records: Records) -> BenchmarkScores:
        """Scores whose metrics are the means of ``samples``."""
        return cls(mean_scores(samples), samples, missing_answers(records))


class MetricContributions(NamedTuple):
    """A metric that is no mean over questions: units [Q], their contributions [Q, V], the statistic of drawn units."""

    metric: str
    units: Sequence[str]
    values: Any
    statistic: Statistic


class Benchmark(ABC):
    """One benchmark."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """The questions of the official files.

        Raises:
            UserError: ``benchmark_unreadable``, naming the file and, where it has one, the line.
        """

    @abstractmethod
    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        """A pure function of stored answers in any order, one record a question."""

    def prompt(self, question: BenchmarkQuestion) -> str:
        """The published prompt of a question."""
        return question.text + SHORT_ANSWER_PROMPT

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        """Names that the question's image may have in the official archives."""
        return [question.image]

    def embedded_images(self, path: Path) -> tuple[Path, dict[str, str]] | None:
        """The file that holds the images and its images in base64; None where they are in a folder of their own."""
        return None

    def chance(self, records: Records) -> dict[str, float]:
        """Exact score of random answers, by metric; free answers have none."""
        return {}

    def contributions(self, records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
        """The metrics that are not means in ``scores.samples``."""
        return []


def missing_answers(records: Iterable[AnsweredQuestion]) -> list[str]:
    return [record.question.id for record in records if record.answer is None]


def mean_scores(samples: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric's units."""
    return {metric: sum(units.values()) / len(units) for metric, units in samples.items() if units}


def scores_by_group(name: str, correct: Mapping[str, float], records: Records, *by: str) -> Samples:
    """``correct`` by question id: under ``name`` as a whole, and as ``name (value)`` for each value of a group."""
    samples: Samples = {name: dict(correct)}
    for group in by:
        for record in records:
            value = record.question.groups.get(group)
            if value is not None:
                samples.setdefault(f"{name} ({value})", {})[record.question.id] = correct[record.question.id]
    return samples
