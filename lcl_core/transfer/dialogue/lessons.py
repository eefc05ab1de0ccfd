"""What dialogue is taught and asked, settled before anything is computed: official files, or derived ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.answers import scorer
from lcl_core.transfer.dialogue.conversations import Conversations, conversations_of, gathered, read_conversations
from lcl_core.transfer.dialogue.derived import (
    Json,
    Rivals,
    instructions,
    pope_entries,
    rivals,
    seed_bench,
    write_instructions,
    write_questions,
)
from lcl_core.transfer.dialogue.exam import Exam, drawn, exam, official_exam
from lcl_core.transfer.gallery import Picture

FIELD = "dialogue"


@dataclass(frozen=True)
class Questions:
    """Derived questions about one split: POPE's files by split, and SEED-Bench's file."""

    pope: dict[str, list[Json]]
    seed: Json


@dataclass(frozen=True)
class Lessons:
    """What is taught in stage two, what is asked, and what of both was derived.

    Attributes:
        entries: derived conversations; empty where official ones are taught.
        questions: derived questions by tested split; empty where official ones are asked.
    """

    taught: Conversations
    exams: list[Exam]
    entries: list[Json] = field(default_factory=list)
    questions: dict[str, Questions] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """The derived files, laid out as official ones are."""
        if self.entries:
            write_instructions(folder, self.entries)
        for split, asked in self.questions.items():
            write_questions(folder / split, asked.pope, asked.seed)


def plan_lessons(
    spec: EvaluateSpec, train: Sequence[Picture], teacher: Corpus, galleries: dict[str, list[Picture]], corpus: Corpus
) -> Lessons:
    """Official conversations and benchmarks as far as the spec names them, derived ones else.

    Args:
        train, teacher: pictures that derived conversations are about, and where they lie.
        galleries, corpus: pictures that derived questions are about, by tested split, and where they lie.

    Raises:
        UserError: files cannot be read; ``label_unknown`` or ``nothing_to_score``, naming the field.
    """
    own = spec.dialogue
    known = None if own.instructions and own.benchmarks else _rivals(spec, train)
    entries: list[Json] = []
    if own.instructions:
        taught = read_conversations(own.instructions, field=f"{FIELD}.instructions")
    else:
        assert known is not None
        entries = instructions(train, known, own.derived.per_picture, spec.seed)
        taught = gathered(teacher, conversations_of(entries, Path("instructions.json")))
    if own.benchmarks:
        exams = [
            official_exam(each, own.max_questions, seed=spec.seed, field=f"{FIELD}.benchmarks.{place}")
            for place, each in enumerate(own.benchmarks)
        ]
        return Lessons(taught, exams, entries)
    assert known is not None
    questions = {split: _questions(spec, split, pictures, known) for split, pictures in galleries.items()}
    exams = [each for split, asked in questions.items() for each in _exams(asked, split, corpus)]
    return Lessons(taught, exams, entries, questions)


def _rivals(spec: EvaluateSpec, train: Sequence[Picture]) -> Rivals:
    label, split = spec.dialogue.derived.label, spec.dialogue.train_split
    known = rivals(label, train)
    if len(known.counts) < 2:
        labels = ", ".join(sorted({key for picture in train for key in picture.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(known.counts)} values in split {split!r}, and questions take two; "
            f"the split's labels: {labels}",
            code="label_unknown", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    return known


def _questions(spec: EvaluateSpec, split: str, pictures: list[Picture], known: Rivals) -> Questions:
    own = spec.dialogue
    sure = [picture for picture in pictures if picture.labels.get(known.label) in known.counts]
    if not sure:
        raise UserError(
            f"no picture of split {split!r} has a {known.label!r} that split {own.train_split!r} teaches",
            code="nothing_to_score", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    names = drawn([picture.image for picture in sure], own.derived.questions, spec.seed)
    asked = [picture for picture in sure if picture.image in names]
    return Questions(pope_entries(asked, known, spec.seed), seed_bench(asked, known, spec.seed))


def _exams(asked: Questions, split: str, corpus: Corpus) -> list[Exam]:
    """The questions, written and read back by the readers of the official files."""
    with tempfile.TemporaryDirectory() as folder:
        write_questions(Path(folder), asked.pope, asked.seed)
        return [_exam(name, split, corpus, Path(folder) / place) for name, place in _PLACES.items()]


_PLACES = {"pope": "pope", "seed-bench": "SEED-Bench.json"}


def _exam(benchmark: str, split: str, corpus: Corpus, path: Path) -> Exam:
    return exam(benchmark, split, corpus, scorer(benchmark).load(path))
