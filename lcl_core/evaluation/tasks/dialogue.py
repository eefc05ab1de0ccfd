"""Dialogue: align a projector on captions, train it on conversations, answer benchmark questions (paper, dialogue)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus, open_corpus
from lcl_core.evaluation.benchmarks.base import AnsweredQuestion
from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.training import FEATURE_SOURCES, ImageBatchSource
from lcl_core.evaluation.predictions import PredictionFile, loss_curve
from lcl_core.evaluation.tasks.base import DatasetResolver, EvalContext, EvalImage, Task
from lcl_core.evaluation.vlm.benchmark import BenchmarkSet
from lcl_core.evaluation.vlm.captioning import CaptionExample, caption_examples
from lcl_core.evaluation.vlm.chat_format import TokenSequence, caption_tokens, conversation_tokens
from lcl_core.evaluation.vlm.checkpoint import save_vlm
from lcl_core.evaluation.vlm.instruction_data import FIELD, Conversations, DialoguePlan, plan_dialogue
from lcl_core.evaluation.vlm.language_model import LanguageModelFiles, resolve_language_model
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, train_vlm
from lcl_core.specs.evaluate import DialogueSpec, EvaluateSpec, StageSpec, Transfer

# rough work, in embedded pictures: learning a caption and a conversation once, answering a question
ALIGN_COST, INSTRUCT_COST, ANSWER_COST = 20.0, 60.0, 20.0


@dataclass(frozen=True)
class DialogueTraining:
    """Who learns, in front of which language model."""

    room: EvalContext
    encoder: EvaluatedEncoder
    transfer: Transfer
    files: LanguageModelFiles
    spec: DialogueSpec

    def learn(
        self, corpus: Corpus, pictures: list[EvalImage], lessons: Sequence[CaptionExample], taught: Conversations
    ) -> VisionLanguageModel:
        """Stage one aligns the bridge alone, in both protocols, on captions; stage two teaches it to answer.

        Args:
            corpus, pictures, lessons: captions, rows being those of ``pictures``.
            taught: conversations. Those without a picture teach only a language model that learns along.
        """
        spec, language = self.spec, self.spec.language_model
        pupil = build_vlm(
            self.room, self.encoder, self.transfer, self.files, language,
            augmentation=spec.instruct.augmentation, precision=spec.instruct.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        speaker = pupil.speaker.language
        frozen = FEATURE_SOURCES["frozen"](self.room, self.encoder, spec.align.augmentation)
        beginner = replace(pupil, ground=frozen, language_lr=None)
        captions = [
            VLMExample(caption_tokens(speaker, "", text).cut(language.max_tokens), row) for row, text in lessons
        ]
        view = frozen.view(spec.train_split, pictures, corpus)
        self._teach(beginner, view, captions, spec.align, "align", ALIGN_COST)
        talks = [
            VLMExample(conversation_tokens(speaker, each.turns, language.layout).cut(language.max_tokens), row)
            for each, row in zip(taught.conversations, taught.rows, strict=True)
            if row is not None or pupil.language_lr is not None
        ]
        view = pupil.ground.view("conversations", taught.pictures, taught.corpus)
        self._teach(pupil, view, talks, spec.instruct.for_protocol(self.transfer), "instruct", INSTRUCT_COST)
        return pupil

    def _teach(
        self,
        pupil: VisionLanguageModel,
        view: ImageBatchSource,
        examples: Sequence[VLMExample],
        spec: StageSpec,
        stage: str,
        units: float,
    ) -> None:
        room = self.room
        room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to dialogue, {stage}")
        losses = train_vlm(
            pupil, view, examples, spec, seed=room.spec.seed, field=f"{FIELD}.{stage}",
            on_step=lambda count: room.progress.add(units * count),
        )  # fmt: skip
        room.curves.add({**self.named, "variant": stage, **loss_curve(losses)})

    @property
    def named(self) -> dict[str, Any]:
        """Who learns, as artifacts say it."""
        return {"task": FIELD, "transfer": self.transfer, "encoder": self.encoder.role}

    def answers(self, pupil: VisionLanguageModel, exam: BenchmarkSet) -> list[AnsweredQuestion]:
        """What the pupil says to each question; the same question about the same picture is put once."""
        language = pupil.speaker.language
        prompts = [conversation_tokens(language, [turn], self.spec.language_model.layout) for turn in exam.turns]
        keys = [(int(row), prompt) for row, prompt in zip(exam.rows, prompts, strict=True)]
        once: dict[tuple[int, TokenSequence], int] = {}
        for key in keys:
            once.setdefault(key, len(once))
        view = pupil.ground.view(exam.benchmark, exam.pictures, exam.corpus)
        room = self.room
        room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer answers {exam.benchmark}")
        share = ANSWER_COST * len(keys) / len(once)
        said = pupil.say(
            view, np.array([row for row, _ in once]), [prompt for _, prompt in once], self.spec.decoding,
            seed=room.spec.seed, on_batch=lambda count: room.progress.add(share * count),
        )  # fmt: skip
        return [AnsweredQuestion(question, said[once[key]]) for question, key in zip(exam.questions, keys, strict=True)]


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
    files: LanguageModelFiles
    corpus: Corpus
    train: list[EvalImage]
    lessons: DialoguePlan

    @classmethod
    def plan(cls, spec: EvaluateSpec, corpus: Corpus, places: DatasetResolver) -> Self:
        own = spec.dialogue
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        teacher = corpus
        if own.train_dataset not in (None, spec.dataset):
            teacher = open_corpus(places.dataset(str(own.train_dataset), f"{FIELD}.train_dataset"))
        train = _training_images(spec, corpus, teacher, places)
        tested = {} if own.benchmarks else places.tested(spec, corpus)
        lessons = plan_dialogue(spec, train, teacher, tested, corpus)
        return cls(own, spec.protocols(own), files, teacher, train, lessons)

    @property
    def wants_patches(self) -> bool:
        return True  # stage one stands on frozen features in both protocols

    @property
    def captions(self) -> list[CaptionExample]:
        """What stage one learns."""
        return caption_examples(self.train, None)

    def units(self) -> float:
        taught, exams = self.lessons.taught, self.lessons.exams
        looked = len(self.train) + len(taught.pictures) + sum(len(exam.pictures) for exam in exams)
        learnt = ALIGN_COST * _count_examples(self.spec.align, len(self.captions))
        learnt += INSTRUCT_COST * _count_examples(self.spec.instruct, len(taught.conversations))
        asked = ANSWER_COST * sum(len(exam.questions) for exam in exams)
        return len(self.transfer) * (looked + learnt + asked)

    def sit(self, room: EvalContext, encoder: EvaluatedEncoder) -> None:
        self.lessons.write(room.artifacts / "derived")
        for transfer in self.transfer:
            talker = DialogueTraining(room, encoder, transfer, self.files, self.spec)
            pupil = talker.learn(self.corpus, self.train, self.captions, self.lessons.taught)
            if encoder.role == "trained":
                save_vlm(
                    room.artifacts / "bridges" / f"{FIELD}-{transfer}", pupil, encoder.tower, self.spec.language_model
                )
            for exam in self.lessons.exams:
                room.albums[exam.album] = exam.corpus
                answers = talker.answers(pupil, exam)
                room.records.add(self._sheet(exam, transfer, encoder), [answer.to_dict() for answer in answers])

    def _sheet(self, exam: BenchmarkSet, transfer: str, encoder: EvaluatedEncoder) -> PredictionFile:
        variant = exam.benchmark if self.spec.benchmarks else f"derived {exam.benchmark}"
        facts = {"benchmark": exam.benchmark, "album": exam.album, "left_out": exam.left_out}
        return PredictionFile(self.name, exam.split, variant, transfer, "answers", encoder.role, facts=facts)


def _count_examples(stage: StageSpec, known: int) -> int:
    return stage.steps * stage.batch_size if stage.steps else stage.epochs * known


def _training_images(spec: EvaluateSpec, corpus: Corpus, teacher: Corpus, places: DatasetResolver) -> list[EvalImage]:
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
    if not caption_examples(pictures, None):
        raise UserError(
            f"split {own.train_split!r} has no captions to learn", code="nothing_to_learn", field=f"{FIELD}.train_split"
        )
    return pictures
