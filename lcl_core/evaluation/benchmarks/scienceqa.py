"""ScienceQA-IMG (Lu et al. 2022): school questions that come with an image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lcl_core.evaluation.benchmarks.base import AnsweredQuestion, BenchmarkQuestion, BenchmarkScores
from lcl_core.evaluation.benchmarks.io import check_type, check_unique, entry_errors, raise_format_error, read_json
from lcl_core.evaluation.benchmarks.multiple_choice import MultipleChoice, score_choices

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LAST_LOWER_GRADE = 6


class ScienceQA(MultipleChoice):
    """Accuracy over the questions with an image, by subject and by school level."""

    name = "scienceqa-img"

    def __init__(self, split: str = "test") -> None:
        self.split = split

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder that holds ``problems.json`` and ``pid_splits.json``."""
        splits_file, file = path / "pid_splits.json", path / "problems.json"
        splits = check_type(read_json(splits_file), dict, "an object of ids by split", splits_file)
        if self.split not in splits:
            raise_format_error(f"there is no split {self.split}; there are {', '.join(splits)}", splits_file)
        problems = check_type(read_json(file), dict, "an object of problems by id", file)
        questions = []
        for number in check_type(splits[self.split], list, f"a list of ids under {self.split}", splits_file):
            if number not in problems:
                raise_format_error(f"problem {number} of the split {self.split} is not here", file)
            with entry_errors(file, number):
                if problems[number]["image"]:
                    questions.append(_question(number, problems[number]))
        return check_unique(questions, file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        return score_choices(list(records), "subject", "grade")

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        return [question.image, f"test/{question.image}"]


def _question(number: str, problem: dict[str, Any]) -> BenchmarkQuestion:
    options = dict(zip(ascii_uppercase, problem["choices"], strict=False))
    grade, hint = int(re.sub(r"\D", "", problem["grade"])), problem["hint"].strip()
    return BenchmarkQuestion(
        id=number,
        image=f"{number}/{problem['image']}",
        text=f"Context: {hint}\n{problem['question']}" if hint else problem["question"],
        truth=(list(options)[problem["answer"]],),
        options=options,
        groups={
            "subject": _SUBJECTS[problem["subject"]],
            "grade": "G1-6" if grade <= _LAST_LOWER_GRADE else "G7-12",
        },
    )
