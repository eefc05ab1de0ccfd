"""One encoder, in one protocol, is taught in two stages and then answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lcl_core.data import Corpus
from lcl_core.specs import DialogueSpec, StageSpec, Transfer
from lcl_core.transfer.answers import Answered
from lcl_core.transfer.bridge.finding import LanguageFiles
from lcl_core.transfer.bridge.learning import Example, teach
from lcl_core.transfer.bridge.packing import Tokens
from lcl_core.transfer.bridge.pupil import Pupil, enrol
from lcl_core.transfer.bridge.turns import caption_tokens, conversation_tokens
from lcl_core.transfer.caption_lessons import Lesson
from lcl_core.transfer.dialogue.conversations import Conversations
from lcl_core.transfer.dialogue.exam import Exam
from lcl_core.transfer.dialogue.lessons import FIELD
from lcl_core.transfer.encoder import ExamEncoder
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ground import GROUNDS, View
from lcl_core.transfer.ledger import curve

if TYPE_CHECKING:
    from lcl_core.transfer.tasks.base import Room

# rough work, in embedded pictures: learning a caption and a conversation once, answering a question
ALIGN_UNITS, INSTRUCT_UNITS, ANSWER_UNITS = 20.0, 60.0, 20.0


@dataclass(frozen=True)
class Talker:
    """Who learns, in front of which language model."""

    room: Room
    encoder: ExamEncoder
    transfer: Transfer
    files: LanguageFiles
    spec: DialogueSpec

    def learn(
        self, corpus: Corpus, pictures: list[Picture], lessons: Sequence[Lesson], taught: Conversations
    ) -> Pupil:
        """Stage one aligns the bridge alone, in both protocols, on captions; stage two teaches it to answer.

        Args:
            corpus, pictures, lessons: captions, rows being those of ``pictures``.
            taught: conversations. Those without a picture teach only a language model that learns along.
        """
        spec, language = self.spec, self.spec.language_model
        pupil = enrol(
            self.room, self.encoder, self.transfer, self.files, language,
            augmentation=spec.instruct.augmentation, precision=spec.instruct.precision, field=f"{FIELD}.language_model",
        )  # fmt: skip
        speaker = pupil.speaker.language
        frozen = GROUNDS["frozen"](self.room, self.encoder, spec.align.augmentation)
        beginner = replace(pupil, ground=frozen, language_lr=None)
        captions = [Example(caption_tokens(speaker, "", text).cut(language.max_tokens), row) for row, text in lessons]
        view = frozen.view(spec.train_split, pictures, corpus)
        self._teach(beginner, view, captions, spec.align, "align", ALIGN_UNITS)
        talks = [
            Example(conversation_tokens(speaker, each.turns, language.layout).cut(language.max_tokens), row)
            for each, row in zip(taught.conversations, taught.rows, strict=True)
            if row is not None or pupil.language_lr is not None
        ]
        view = pupil.ground.view("conversations", taught.pictures, taught.corpus)
        self._teach(pupil, view, talks, spec.instruct.under(self.transfer), "instruct", INSTRUCT_UNITS)
        return pupil

    def _teach(
        self, pupil: Pupil, view: View, examples: Sequence[Example], spec: StageSpec, stage: str, units: float
    ) -> None:
        room = self.room
        room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer to dialogue, {stage}")
        losses = teach(
            pupil, view, examples, spec, seed=room.spec.seed, field=f"{FIELD}.{stage}",
            on_step=lambda count: room.progress.add(units * count),
        )  # fmt: skip
        room.curves.add({**self.named, "variant": stage, **curve(losses)})

    @property
    def named(self) -> dict[str, Any]:
        """Who learns, as artifacts say it."""
        return {"task": FIELD, "transfer": self.transfer, "encoder": self.encoder.role}

    def answers(self, pupil: Pupil, exam: Exam) -> list[Answered]:
        """What the pupil says to each question; the same question about the same picture is put once."""
        language = pupil.speaker.language
        prompts = [conversation_tokens(language, [turn], self.spec.language_model.layout) for turn in exam.turns]
        keys = [(int(row), prompt) for row, prompt in zip(exam.rows, prompts, strict=True)]
        once: dict[tuple[int, Tokens], int] = {}
        for key in keys:
            once.setdefault(key, len(once))
        view = pupil.ground.view(exam.benchmark, exam.pictures, exam.corpus)
        room = self.room
        room.progress.enter(f"{self.encoder.role} encoder: {self.transfer} transfer answers {exam.benchmark}")
        share = ANSWER_UNITS * len(keys) / len(once)
        said = pupil.say(
            view, np.array([row for row, _ in once]), [prompt for _, prompt in once], self.spec.decoding,
            seed=room.spec.seed, on_batch=lambda count: room.progress.add(share * count),
        )  # fmt: skip
        return [Answered(question, said[once[key]]) for question, key in zip(exam.questions, keys, strict=True)]
