"""Dialogue: a bridge is aligned on captions, taught to answer, and asked the questions of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from lcl_core.data import Corpus, open_corpus
from lcl_core.errors import UserError
from lcl_core.specs import DialogueSpec, EvaluateSpec, StageSpec, Transfer
from lcl_core.transfer.bridge.finding import LanguageFiles, find_language_model
from lcl_core.transfer.bridge.saving import save_pupil
from lcl_core.transfer.caption_lessons import Lesson, lessons_of
from lcl_core.transfer.dialogue.exam import Exam
from lcl_core.transfer.dialogue.lessons import FIELD, Lessons, plan_lessons
from lcl_core.transfer.dialogue.talker import ALIGN_UNITS, ANSWER_UNITS, INSTRUCT_UNITS, Talker
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.records import Sheet
from lcl_core.transfer.tasks.base import Places, Room, Task


@dataclass(frozen=True)
class Dialogue(Task):
    """Two stages and then benchmarks (paper, dialogue), frozen or full.

    Attributes:
        corpus, train: whose captions stage one learns from.
        lessons: of stage two, and what is asked.
    """

    name = FIELD

    spec: DialogueSpec
    transfer: tuple[Transfer, ...]
    files: LanguageFiles
    corpus: Corpus
    train: list[Picture]
    lessons: Lessons

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: Places) -> Self:
        own = spec.dialogue
        files = find_language_model(own.language_model, field=f"{FIELD}.language_model")
        teacher = corpus
        if own.train_dataset not in (None, spec.dataset):
            teacher = open_corpus(places.dataset(str(own.train_dataset), f"{FIELD}.train_dataset"))
        train = _teachers(spec, corpus, teacher, places)
        tested = {} if own.benchmarks else places.tested(spec, corpus)
        lessons = plan_lessons(spec, train, teacher, tested, corpus)
        return cls(own, spec.protocols(own), files, teacher, train, lessons)

    @property
    def wants_patches(self) -> bool:
        return True  # stage one stands on frozen features in both protocols

    @property
    def captions(self) -> list[Lesson]:
        """What stage one learns."""
        return lessons_of(self.train, None)

    def units(self) -> float:
        taught, exams = self.lessons.taught, self.lessons.exams
        looked = len(self.train) + len(taught.pictures) + sum(len(exam.pictures) for exam in exams)
        learnt = ALIGN_UNITS * _examples(self.spec.align, len(self.captions))
        learnt += INSTRUCT_UNITS * _examples(self.spec.instruct, len(taught.conversations))
        asked = ANSWER_UNITS * sum(len(exam.questions) for exam in exams)
        return len(self.transfer) * (looked + learnt + asked)

    def sit(self, room: Room, encoder: ExamEncoder) -> None:
        self.lessons.write(room.artifacts / "derived")
        for transfer in self.transfer:
            talker = Talker(room, encoder, transfer, self.files, self.spec)
            pupil = talker.learn(self.corpus, self.train, self.captions, self.lessons.taught)
            if encoder.role == "trained":
                save_pupil(
                    room.artifacts / "bridges" / f"{FIELD}-{transfer}", pupil, encoder.tower, self.spec.language_model
                )
            for exam in self.lessons.exams:
                room.albums[exam.album] = exam.corpus
                answers = talker.answers(pupil, exam)
                room.records.add(self._sheet(exam, transfer, encoder), [answer.to_dict() for answer in answers])

    def _sheet(self, exam: Exam, transfer: str, encoder: ExamEncoder) -> Sheet:
        variant = exam.benchmark if self.spec.benchmarks else f"derived {exam.benchmark}"
        facts = {"benchmark": exam.benchmark, "album": exam.album, "left_out": exam.left_out}
        return Sheet(self.name, exam.split, variant, transfer, "answers", encoder.role, facts=facts)


def _examples(stage: StageSpec, known: int) -> int:
    return stage.steps * stage.batch_size if stage.steps else stage.epochs * known


def _teachers(spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: Places) -> list[Picture]:
    """The pictures whose captions stage one learns from.

    Raises:
        UserError: ``train_split_tested``, ``nothing_to_learn``, or the split is empty.
    """
    own, examined = spec.dialogue, not spec.dialogue.benchmarks and teacher.path == corpus.path
    if examined and own.train_split in spec.splits:
        raise UserError(
            f"{FIELD} learns from split {own.train_split!r}, so it cannot be examined on it; "
            f"name another in splits or in {FIELD}.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(own.train_split)}",
        )  # fmt: skip
    source = spec.source if teacher.path == corpus.path else None
    pictures = places.gallery(teacher, own.train_split, source, field=f"{FIELD}.train_split")
    if not lessons_of(pictures, None):
        raise UserError(
            f"split {own.train_split!r} has no captions to learn", code="nothing_to_learn", field=f"{FIELD}.train_split"
        )
    return pictures
