"""GQA (Hudson and Manning 2019): compositional questions with one short answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.transfer.answers.files import expect, one_file, read_json, reading, unique
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores, broken_down, means, missing


class GQA(Scorer):
    """Exact match, in all and for open ("query") and binary questions, as the official program splits them."""

    name = "gqa"

    def load(self, path: Path) -> list[Question]:
        """From a questions file such as ``testdev_balanced_questions.json``: question id to question."""
        file = one_file(path, "*questions.json")
        entries = expect(read_json(file), dict, "an object of questions by id", file)
        return unique([_question(number, entry, file) for number, entry in entries.items()], file)

    def score(self, records: Iterable[Answered]) -> Scores:
        records = list(records)
        correct = {record.question.id: float(_right(record)) for record in records}
        samples = broken_down("accuracy", correct, records, "form", "structural", "semantic")
        return Scores(means(samples), samples, missing(records))


def _right(record: Answered) -> bool:
    return record.answer is not None and _plain(record.answer) == _plain(record.question.truth[0])


def _plain(answer: str) -> str:
    """Lower case, without the full stop that a talkative model ends on."""
    return " ".join(answer.lower().split()).rstrip(".")


def _question(number: str, entry: dict[str, Any], file: Path) -> Question:
    with reading(file, number):
        types = entry["types"]
        return Question(
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
