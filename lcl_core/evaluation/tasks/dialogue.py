"""Dialogue: align a projector on captions, train it on conversations, answer questions (paper, dialogue).

Conversations are LLaVA's JSON (github.com/haotian-liu/LLaVA), or derived from a label of the dataset:

    [{"id", "image": "name in the folder", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                             {"from": "gpt", "value": "…"}, …]}, …]

An entry without ``image`` is a conversation without an image.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.data import Corpus
from lcl_core.data.corpus.base import CaptionPairs, Documents
from lcl_core.data.corpus.file_store import has_file, open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.evaluation.tasks.base import EvalContext, EvalImage, EvaluationData, SplitImages, Task
from lcl_core.evaluation.tasks.captioning import CaptionExample, caption_examples
from lcl_core.evaluation.training import FeatureSource
from lcl_core.evaluation.vlm.language_model import (
    IMAGE_MARK,
    Turn,
    caption_tokens,
    conversation_tokens,
    resolve_language_model,
)
from lcl_core.evaluation.vlm.model import VisionLanguageModel, VLMExample, build_vlm, save_vlm
from lcl_core.evaluation.vlm.questions import LabelQuestion, derived_questions
from lcl_core.specs.evaluate import DerivedSpec, DialogueSpec, EvaluateSpec, InstructionsSpec, StageSpec, Transfer

FIELD = "dialogue"
Json = dict[str, Any]
_HUMAN, _ASSISTANT = "human", "gpt"


# ---- conversations


class LlavaMessage(BaseModel):
    speaker: str = Field(alias="from")
    value: str


class LlavaEntry(BaseModel):
    """An entry of a file in LLaVA's layout."""

    image: str | None = None
    conversations: list[LlavaMessage]

    @model_validator(mode="after")
    def _questions_have_answers(self) -> LlavaEntry:
        if self.conversations and self.conversations[0].speaker != _HUMAN:
            del self.conversations[0]
        speakers = [message.speaker for message in self.conversations]
        if len(speakers) < 2:
            raise ValueError("no question with an answer")
        if any(speaker != (_HUMAN, _ASSISTANT)[place % 2] for place, speaker in enumerate(speakers)):
            raise ValueError(f"{_HUMAN} and {_ASSISTANT} are expected in turn")
        return self

    @property
    def turns(self) -> list[Turn]:
        """Questions with answers; the first question shows the image, where there is one."""
        texts = [message.value for message in self.conversations]
        turns = [
            Turn(question.replace(IMAGE_MARK, "").strip(), answer)
            for question, answer in zip(texts[::2], texts[1::2], strict=False)
        ]
        if self.image is not None:
            turns[0] = Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer)
        return turns


_ENTRIES = TypeAdapter(list[LlavaEntry])


@dataclass(frozen=True)
class Conversations:
    """Conversations with their images.

    Attributes:
        source: their images, each once.
        rows: row in ``source`` of each conversation's image; None: it has none.
    """

    source: SplitImages
    turns: list[list[Turn]]
    rows: list[int | None]

    @classmethod
    def of(cls, corpus: Corpus, entries: Sequence[LlavaEntry]) -> Self:
        names = dict.fromkeys(entry.image for entry in entries if entry.image is not None)
        row_of = {name: row for row, name in enumerate(names)}
        rows = [None if entry.image is None else row_of[entry.image] for entry in entries]
        source = SplitImages(corpus, "conversations", [EvalImage(name, (), {}) for name in names])
        return cls(source, [entry.turns for entry in entries], rows)


class InstructionImages(Corpus):
    """Images of an instructions file, in a folder or a zip. No documents, no captions."""

    def __init__(self, folder: Path) -> None:
        self.path, self._store = folder, open_store(folder)

    def has(self, name: str) -> bool:
        """Is there an image of that name?"""
        return has_file(self._store, name)

    @property
    def documents(self) -> Documents:
        raise NotImplementedError

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        raise NotImplementedError

    def splits(self) -> dict[str, int]:
        return {}

    def image_bytes(self, name: str) -> bytes:
        return self._store.read(name, MAX_IMAGE_BYTES)

    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        """Of the files' names, sizes and times: the folder is large and not written to."""
        digest = hashlib.sha256()
        for name in [""] if self.path.is_file() else self._store.names():
            if (file := self.path / name).exists():  # else a link to nothing
                stat = file.stat()
                digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def read_conversations(source: InstructionsSpec, *, field: str) -> Conversations:
    """Read a file. Conversations whose image is not in its folder are left out."""
    file = Path(source.path)
    if not file.is_file():
        raise UserError("there is no such file", code="corpus_unreadable", file=file)
    try:
        entries = _ENTRIES.validate_json(file.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the list"
        message = f"entry {at} is not as expected ({first['msg']})"
        raise UserError(message, code="corpus_unreadable", file=file) from None
    try:
        images = InstructionImages(Path(source.images))
    except UserError as error:
        error.field = f"{field}.images"
        raise
    usable = [entry for entry in entries if entry.image is None or images.has(entry.image)]
    if not any(entry.image for entry in usable):
        raise UserError(
            f"none of the images that {file.name} names are in this folder",
            code="no_data", field=f"{field}.images", file=source.images,
        )  # fmt: skip
    return Conversations.of(images, usable)


def derived_instructions(own: Mapping[str, str], values: Sequence[str], seed: int) -> list[Json]:
    """Entries of LLaVA's JSON, a yes and a no of each image. ``own``: the value of each image."""
    return [
        {
            "id": question.id,
            "image": question.image,
            "conversations": [
                {"from": _HUMAN, "value": f"{IMAGE_MARK}\n{question.prompt}"},
                {"from": _ASSISTANT, "value": question.truth.capitalize()},
            ],
        }
        for question in derived_questions(own, values, np.random.default_rng([seed, 1]))
    ]


# ---- questions


LabelQuestions = tuple[SplitImages, list[LabelQuestion]]  # about images of one split, each of which is there once


def plan_questions(
    spec: EvaluateSpec, derived: DerivedSpec, images: SplitImages, values: Sequence[str]
) -> LabelQuestions:
    """Questions about the images of a split whose label has one of ``values``."""
    labeled = [image for image in images.images if image.labels.get(derived.label) in values]
    if not labeled:
        raise UserError(
            f"no image of split {images.split!r} has a {derived.label!r} of split {spec.dialogue.train_split!r}",
            code="no_data", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    if derived.questions < len(labeled):
        rng = np.random.default_rng(spec.seed)
        labeled = [labeled[row] for row in np.sort(rng.choice(len(labeled), derived.questions, replace=False))]
    own = {image.name: image.labels[derived.label] for image in labeled}
    questions = derived_questions(own, values, np.random.default_rng([spec.seed, 2]))
    return replace(images, images=labeled), questions


# ---- the task


@dataclass(frozen=True)
class Dialogue(Task):
    """Two training stages and then questions, frozen or full.

    Attributes:
        train: captioned images of stage one.
        conversations: of stage two.
        entries: derived conversations; empty where the spec names a file.
    """

    name = FIELD

    spec: DialogueSpec
    transfer: tuple[Transfer, ...]
    files: Path
    train: SplitImages
    conversations: Conversations
    questions: list[LabelQuestions]
    entries: list[Json]

    @classmethod
    def plan(cls, data: EvaluationData) -> Self:
        own, derived = data.spec.dialogue, data.spec.dialogue.derived
        files = resolve_language_model(own.language_model, field=f"{FIELD}.language_model")
        train = data.train_images(own, FIELD, tested=derived is not None)
        if not caption_examples(train.images, None):
            raise UserError(
                f"split {own.train_split!r} has no captions to learn", code="no_data",
                field=f"{FIELD}.train_split",
            )  # fmt: skip
        given = read_conversations(own.instructions, field=f"{FIELD}.instructions") if own.instructions else None
        protocols = data.spec.protocols(own)
        if derived is None:
            if given is None:
                raise UserError(
                    "without derived conversations, name instructions to learn from", code="no_data",
                    field=f"{FIELD}.instructions",
                )  # fmt: skip
            return cls(own, protocols, files, train, given, [], [])
        own_value = {each.name: each.labels[derived.label] for each in train.images if derived.label in each.labels}
        values = sorted(set(own_value.values()))
        if len(values) < 2:
            labels = ", ".join(sorted({key for image in train.images for key in image.labels})) or "none"
            raise UserError(
                f"label {derived.label!r} has {len(values)} values in split {own.train_split!r}, and questions take "
                f"two; the split's labels: {labels}; with instructions, derived null asks no questions",
                field=f"{FIELD}.derived.label",
            )  # fmt: skip
        questions = [plan_questions(data.spec, derived, images, values) for images in data.test_images().values()]
        entries = [] if given else derived_instructions(own_value, values, data.spec.seed)
        conversations = given or Conversations.of(train.corpus, _ENTRIES.validate_python(entries))
        return cls(own, protocols, files, train, conversations, questions, entries)

    @property
    def needs_patch_features(self) -> bool:
        return True  # stage one uses frozen features in both protocols

    @property
    def captions(self) -> list[CaptionExample]:
        """The examples of stage one."""
        return caption_examples(self.train.images, None)

    def run(self, context: EvalContext) -> None:
        if self.entries:
            write_json_atomically(context.artifacts / "derived_instructions.json", self.entries)
        for transfer in self.transfer:
            vlm = self._train(context, transfer)
            if context.encoder.role == "trained":
                save_vlm(context.artifacts / "bridges" / f"{FIELD}-{transfer}", vlm, self.spec.language_model)
            for split, questions in self.questions:
                context.enter(f"{transfer} transfer answers questions on {split.split}")
                row_of = {image.name: row for row, image in enumerate(split.images)}
                rows = np.array([row_of[each.image] for each in questions], np.int64)
                turns = [Turn(f"{IMAGE_MARK}\n{each.prompt.replace(IMAGE_MARK, ' ')}", None) for each in questions]
                prompts = [conversation_tokens(vlm.llava.language, [turn]) for turn in turns]
                answers = vlm.generate(split, rows, prompts, self.spec.decoding)
                answered = zip(questions, answers, strict=True)
                context.store(
                    [replace(question, answer=answer).to_dict() for question, answer in answered],
                    task=FIELD, split=split.split, variant="derived pope", transfer=transfer, kind="answers",
                )  # fmt: skip

    def _train(self, context: EvalContext, transfer: Transfer) -> VisionLanguageModel:
        """Stage one trains the projector alone on captions, in both protocols; stage two trains on conversations.

        Conversations without an image are used only where the language model is trained.
        """
        spec, language, conversations = self.spec, self.spec.language_model, self.conversations
        source = FeatureSource(context, transfer, spec.instruct.augmentation)
        vlm = build_vlm(source, transfer, self.files, language, f"{FIELD}.language_model")
        model, max_tokens = vlm.llava.language, language.max_tokens

        def train_stage(
            vlm: VisionLanguageModel, split: SplitImages, examples: Sequence[VLMExample], own: StageSpec, stage: str
        ) -> None:
            context.enter(f"{transfer} transfer to dialogue, {stage}")
            losses = vlm.train(split, examples, own, f"{FIELD}.{stage}")
            context.log_losses(context.fit_labels(FIELD, stage, transfer), losses)

        frozen = FeatureSource(context, "frozen", spec.align.augmentation)
        aligned = [(caption_tokens(model, text).cut(max_tokens), row) for row, text in self.captions]
        train_stage(replace(vlm, source=frozen, language_lr=None), self.train, aligned, spec.align, "align")
        instructed = [
            (conversation_tokens(model, turns).cut(max_tokens), row)
            for turns, row in zip(conversations.turns, conversations.rows, strict=True)
            if row is not None or vlm.language_lr is not None
        ]
        train_stage(vlm, conversations.source, instructed, spec.instruct, "instruct")
        return vlm
