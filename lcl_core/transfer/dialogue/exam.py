"""A benchmark as it is asked: questions, the pictures they are about, and the words they are put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import BenchmarkSpec
from lcl_core.transfer.answers import Question, scorer
from lcl_core.transfer.bridge.turns import Turn
from lcl_core.transfer.dialogue.prompts import prompt_of
from lcl_core.transfer.dialogue.shown import album_of, picture_of
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ranking import Ints


@dataclass(frozen=True)
class Exam:
    """The questions of one benchmark.

    Attributes:
        benchmark: a name in ``lcl_core.transfer.answers.SCORERS``.
        split: what is asked: a file's name, or the split that questions were made of.
        corpus: where the pictures lie.
        pictures: each once.
        questions: in the order of the files.
        rows: [Q] the picture of each question.
        left_out: how many are not asked, by reason.
    """

    benchmark: str
    split: str
    corpus: Corpus
    pictures: list[Picture]
    questions: list[Question]
    rows: Ints
    left_out: dict[str, int]

    @property
    def album(self) -> str:
        """Tells its pictures from those of the run's other exams; two folders may have one name."""
        return f"{self.benchmark} {self.split}"

    @property
    def turns(self) -> list[Turn]:
        """[Q] each question in the benchmark's published words."""
        return [prompt_of(self.benchmark, question) for question in self.questions]


def official_exam(spec: BenchmarkSpec, most: int | None, *, seed: int, field: str) -> Exam:
    """A benchmark from its official files. Questions whose picture is not there are left out and counted.

    Args:
        most: ask about so many pictures, drawn by ``seed``; none: all.
        field: of the evaluation's spec that holds ``spec``.

    Raises:
        UserError: the files cannot be read, or none of the pictures is there.
    """
    path = Path(spec.path)
    images = None if spec.images is None else Path(spec.images)
    questions = scorer(spec.name).load(path)
    album = album_of(spec.name, path, images, field=field)
    shown = [(question, picture_of(spec.name, question, album)) for question in questions]
    there = [(question, name) for question, name in shown if name is not None]
    if not there:
        raise UserError(
            f"none of the pictures that {spec.name} asks about are here", code="images_missing",
            field=f"{field}.images", file=images,
        )  # fmt: skip
    asked = drawn([name for _, name in there], most, seed)
    chosen = [(question, name) for question, name in there if name in asked]
    reasons = {"no_picture": len(questions) - len(there), "not_drawn": len(there) - len(chosen)}
    left_out = {reason: count for reason, count in reasons.items() if count}
    return exam(spec.name, path.name, album, [replace(each, image=name) for each, name in chosen], left_out)


def exam(
    benchmark: str,
    split: str,
    corpus: Corpus,
    questions: list[Question],
    left_out: dict[str, int] | None = None,
) -> Exam:
    """An exam of ``questions`` about pictures that lie in ``corpus`` under the names they have in the questions."""
    row_of = {name: row for row, name in enumerate(dict.fromkeys(question.image for question in questions))}
    pictures = [Picture(name, (), {}) for name in row_of]
    rows = np.array([row_of[question.image] for question in questions], np.int64)
    return Exam(benchmark, split, corpus, pictures, questions, rows, left_out or {})


def drawn(names: Sequence[str], most: int | None, seed: int) -> set[str]:
    """At most so many of the names, by the seed; every question about a picture is asked or none."""
    known = list(dict.fromkeys(names))
    if most is None or most >= len(known):
        return set(known)
    return {known[place] for place in np.random.default_rng(seed).choice(len(known), most, replace=False)}
