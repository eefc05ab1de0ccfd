"""GQA (Hudson and Manning 2019): compositional questions with one short answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import check_type, check_unique, entry_errors, find_one_file, read_json


class GQA(Benchmark):
    """Exact match, in all and for open ("query") and binary questions, as the official program splits them."""

    name = "gqa"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From a questions file such as ``testdev_balanced_questions.json``: question id to question."""
        file = find_one_file(path, "*questions.json")
        entries = check_type(read_json(file), dict, "an object of questions by id", file)
        return check_unique([_question(number, entry, file) for number, entry in entries.items()], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: float(_is_correct(record)) for record in records}
        return BenchmarkScores.of_means(
            scores_by_group("accuracy", correct, records, "form", "structural", "semantic"), records
        )

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        return [f"{question.image}.jpg"]


def _is_correct(record: AnsweredQuestion) -> bool:
    return record.answer is not None and _normalize(record.answer) == _normalize(record.question.truth[0])


def _normalize(answer: str) -> str:
    """Lower case, without a full stop at the end."""
    return " ".join(answer.lower().split()).rstrip(".")


def _question(number: str, entry: dict[str, Any], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, number):
        types = entry["types"]
        return BenchmarkQuestion(
            id=number,
            image=str(entry["imageId"]),
            text=entry["question"],
            truth=(str(entry["answer"]),),
            groups={
                "form": "open" if types["structural"] == "query" else "binary",
                "structural": types["structural"],
                "semantic": types["semantic"],
            },
        )
