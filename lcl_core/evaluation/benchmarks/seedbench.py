"""SEED-Bench (Li et al. 2023): multiple choice over twelve dimensions, nine of images and three of videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion, BenchmarkScores
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_entries,
    read_json,
)
from lcl_core.evaluation.benchmarks.multiple_choice import MultipleChoice, score_choices

_LETTERS = "ABCD"


class SEEDBench(MultipleChoice):
    """Accuracy over all questions, over images and over videos, and of each dimension."""

    name = "seed-bench"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From ``SEED-Bench.json``: questions and the names of the dimensions."""
        file = find_one_file(path, "SEED-Bench*.json")
        entries = read_entries(file, "questions")
        with entry_errors(file, "question_type"):
            names = {number: name for name, number in read_json(file)["question_type"].items()}
        return check_unique([_question(number, entry, names, file) for number, entry in enumerate(entries)], file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        return score_choices(list(records), "medium", "dimension")

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        """Images by their own name; of a video the middle frame, which LLaVA names after the question."""
        if question.groups["medium"] != "image":
            return [f"{question.id}.png", f"SEED-Bench-video-image/{question.id}.png"]
        return [question.image, f"{question.image}.jpg", f"{question.image}.png", f"SEED-Bench-image/{question.image}"]


def _question(position: int, entry: dict[str, Any], names: dict[int, str], file: Path) -> BenchmarkQuestion:
    with entry_errors(file, entry.get("question_id", position)):
        options = {letter: str(entry[f"choice_{letter.lower()}"]) for letter in _LETTERS}
        if entry["answer"] not in options:
            raise_format_error(
                f'question {entry["question_id"]}: the answer is "{entry["answer"]}", not one of A to D', file
            )
        return BenchmarkQuestion(
            id=str(entry["question_id"]),
            image=str(entry["data_id"]),
            text=entry["question"],
            truth=(entry["answer"],),
            options=options,
            groups={"medium": entry["data_type"], "dimension": names[entry["question_type_id"]]},
        )
