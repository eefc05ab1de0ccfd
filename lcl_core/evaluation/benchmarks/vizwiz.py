"""VizWiz-VQA (Gurari et al. 2018): questions that blind people asked about their own photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    SHORT_ANSWER_PROMPT,
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import check_unique, entry_errors, find_one_file, read_entries
from lcl_core.evaluation.benchmarks.vqa_consensus import consensus_accuracy, normalize_answer

UNANSWERABLE = "unanswerable"
_UNANSWERABLE_PROMPT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


class VizWiz(Benchmark):
    """Accuracy as in VQA, and answerability.

    ``answerability`` is the share of questions where the model says "unanswerable" exactly when people did; the
    challenge's average precision needs a confidence, which an answer does not carry.
    """

    name = "vizwiz"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``val.json`` (or ``train.json``) of the official annotations; a folder may hold just one."""
        file = find_one_file(path, "*.json")
        return check_unique([_question(number, entry, file) for number, entry in enumerate(read_entries(file))], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        samples = scores_by_group("accuracy", correct, records, "answer_type", "answerable")
        samples["answerability"] = {record.question.id: float(_answerability_correct(record)) for record in records}
        return BenchmarkScores.of_means(samples, records)

    def prompt(self, question: BenchmarkQuestion) -> str:
        return question.text + _UNANSWERABLE_PROMPT + SHORT_ANSWER_PROMPT


def _answerability_correct(record: AnsweredQuestion) -> bool:
    if record.answer is None:
        return False
    predicted = normalize_answer(record.answer) == UNANSWERABLE
    return predicted == (record.question.groups["answerable"] == UNANSWERABLE)


def _question(number: int, entry: dict[str, Any], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, number):
        return BenchmarkQuestion(
            id=str(entry["image"]),
            image=entry["image"],
            text=entry["question"],
            truth=tuple(str(each["answer"]) for each in entry["answers"]),
            groups={
                "answer_type": entry["answer_type"],
                "answerable": "answerable" if int(entry["answerable"]) else UNANSWERABLE,
            },
        )
