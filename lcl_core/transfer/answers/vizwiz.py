"""VizWiz-VQA (Gurari et al. 2018): questions that blind people asked of their own pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.transfer.answers.files import one_file, read_entries, reading, unique
from lcl_core.transfer.answers.people import consensus
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores, broken_down, means, missing
from lcl_core.transfer.answers.vqa_words import normalise

UNANSWERABLE = "unanswerable"


class VizWiz(Scorer):
    """Accuracy as in VQA, and how well the model tells what cannot be answered.

    ``answerability`` is the share of questions where the model says "unanswerable" exactly when people did;
    the challenge's average precision needs a confidence, which an answer does not carry.
    """

    name = "vizwiz"

    def load(self, path: Path) -> list[Question]:
        """From ``val.json`` (or ``train.json``) of the official annotations; a folder may hold just one."""
        file = one_file(path, "*.json")
        return unique([_question(number, entry, file) for number, entry in enumerate(read_entries(file))], file)

    def score(self, records: Iterable[Answered]) -> Scores:
        records = list(records)
        correct = {record.question.id: consensus(record.answer, record.question.truth) for record in records}
        samples = broken_down("accuracy", correct, records, "answer_type", "answerable")
        samples["answerability"] = {record.question.id: float(_tells(record)) for record in records}
        return Scores(means(samples), samples, missing(records))


def _tells(record: Answered) -> bool:
    if record.answer is None:
        return False
    return (normalise(record.answer) == UNANSWERABLE) == (record.question.groups["answerable"] == UNANSWERABLE)


def _question(number: int, entry: dict[str, Any], file: Path) -> Question:
    with reading(file, number):
        return Question(
            id=str(entry["image"]),
            image=entry["image"],
            text=entry["question"],
            truth=tuple(str(each["answer"]) for each in entry["answers"]),
            groups={
                "answer_type": entry["answer_type"],
                "answerable": "answerable" if int(entry["answerable"]) else UNANSWERABLE,
            },
        )
