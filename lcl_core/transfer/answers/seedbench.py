"""SEED-Bench (Li et al. 2023): multiple choice over twelve dimensions, nine of pictures and three of videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.transfer.answers.choices import choice_scores
from lcl_core.transfer.answers.files import one_file, read_entries, read_json, reading, refuse, unique
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores

_LETTERS = "ABCD"


class SEEDBench(Scorer):
    """Accuracy over all questions, over pictures and over videos, and of each dimension."""

    name = "seed-bench"

    def load(self, path: Path) -> list[Question]:
        """From ``SEED-Bench.json``: questions and the names of the dimensions."""
        file = one_file(path, "SEED-Bench*.json")
        entries = read_entries(file, "questions")
        with reading(file, "question_type"):
            names = {number: name for name, number in read_json(file)["question_type"].items()}
        return unique([_question(place, entry, names, file) for place, entry in enumerate(entries)], file)

    def score(self, records: Iterable[Answered]) -> Scores:
        return choice_scores(list(records), "medium", "dimension")


def _question(place: int, entry: dict[str, Any], names: dict[int, str], file: Path) -> Question:
    with reading(file, entry.get("question_id", place)):
        options = {letter: str(entry[f"choice_{letter.lower()}"]) for letter in _LETTERS}
        if entry["answer"] not in options:
            refuse(f'question {entry["question_id"]}: the answer is "{entry["answer"]}", not one of A to D', file)
        return Question(
            id=str(entry["question_id"]),
            image=str(entry["data_id"]),
            text=entry["question"],
            truth=(entry["answer"],),
            options=options,
            groups={"medium": entry["data_type"], "dimension": names[entry["question_type_id"]]},
        )
