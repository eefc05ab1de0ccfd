"""VQAv2 (Goyal et al. 2017): open questions with ten human answers each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.transfer.answers.files import one_file, read_entries, reading, refuse, unique
from lcl_core.transfer.answers.people import consensus
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores, broken_down, means, missing


class VQA(Scorer):
    """Accuracy, and by the type of answer: yes/no, number, other."""

    name = "vqav2"

    def load(self, path: Path) -> list[Question]:
        """From a folder with one ``*questions.json`` and one ``*annotations.json``, as they are distributed."""
        asked_file, told_file = one_file(path, "*questions.json"), one_file(path, "*annotations.json")
        if asked_file == told_file:
            refuse("give the folder that holds both the questions and the annotations", path)
        told = {entry.get("question_id"): entry for entry in read_entries(told_file, "annotations")}
        questions = []
        for place, entry in enumerate(read_entries(asked_file, "questions")):
            with reading(asked_file, place):
                number = entry["question_id"]
                if number not in told:
                    refuse(f"question {number} has no annotation; test splits are scored by their server", told_file)
                questions.append(_question(entry, told[number], told_file))
        return unique(questions, asked_file)

    def score(self, records: Iterable[Answered]) -> Scores:
        records = list(records)
        correct = {record.question.id: consensus(record.answer, record.question.truth) for record in records}
        samples = broken_down("accuracy", correct, records, "answer_type")
        return Scores(means(samples), samples, missing(records))


def _question(asked: dict[str, Any], told: dict[str, Any], told_file: Path) -> Question:
    with reading(told_file, told["question_id"]):
        return Question(
            id=str(asked["question_id"]),
            image=str(asked["image_id"]),
            text=asked["question"],
            truth=tuple(str(each["answer"]) for each in told["answers"]),
            groups={"answer_type": told["answer_type"]},
        )
