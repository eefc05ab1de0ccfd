"""ScienceQA-IMG (Lu et al. 2022): school questions that come with a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lcl_core.transfer.answers.choices import choice_scores
from lcl_core.transfer.answers.files import expect, read_json, reading, refuse, unique
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LOWER_GRADES = 6


class ScienceQA(Scorer):
    """Accuracy over the questions with a picture, by subject and by school level."""

    name = "scienceqa-img"

    def __init__(self, split: str = "test") -> None:
        self.split = split

    def load(self, path: Path) -> list[Question]:
        """From the folder that holds ``problems.json`` and ``pid_splits.json``."""
        splits_file, file = path / "pid_splits.json", path / "problems.json"
        splits = expect(read_json(splits_file), dict, "an object of ids by split", splits_file)
        if self.split not in splits:
            refuse(f"there is no split {self.split}; there are {', '.join(splits)}", splits_file)
        problems = expect(read_json(file), dict, "an object of problems by id", file)
        questions = []
        for number in expect(splits[self.split], list, f"a list of ids under {self.split}", splits_file):
            if number not in problems:
                refuse(f"problem {number} of the split {self.split} is not here", file)
            with reading(file, number):
                if problems[number]["image"]:
                    questions.append(_question(number, problems[number]))
        return unique(questions, file)

    def score(self, records: Iterable[Answered]) -> Scores:
        return choice_scores(list(records), "subject", "grade")


def _question(number: str, problem: dict[str, Any]) -> Question:
    options = dict(zip(ascii_uppercase, problem["choices"], strict=False))
    grade, hint = int(re.sub(r"\D", "", problem["grade"])), problem["hint"].strip()
    return Question(
        id=number,
        image=f"{number}/{problem['image']}",
        text=f"Context: {hint}\n{problem['question']}" if hint else problem["question"],
        truth=(list(options)[problem["answer"]],),
        options=options,
        groups={
            "subject": _SUBJECTS[problem["subject"]],
            "grade": "G1-6" if grade <= _LOWER_GRADES else "G7-12",
        },
    )
