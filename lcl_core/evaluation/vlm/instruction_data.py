"""Data of dialogue: conversations in LLaVA's JSON, and conversations and questions derived from a label.

    [{"id", "image": "name in the folder", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                             {"from": "gpt", "value": "…"}, …]}, …]

An entry without ``image`` is a conversation without an image. Source: github.com/haotian-liu/LLaVA
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.data.corpus.base import CaptionPairs, Documents
from lcl_core.data.corpus.file_store import open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.evaluation.metrics import Ints
from lcl_core.evaluation.tasks.base import EvalImage, SplitImages
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
from lcl_core.evaluation.vlm.questions import (
    SHORT_ANSWER_PROMPT,
    BenchmarkQuestion,
    choice_question,
    derived_questions,
    yes_no_question,
)
from lcl_core.specs.evaluate import DerivedSpec, EvaluateSpec, InstructionsSpec

FIELD = "dialogue"
Json = dict[str, Any]
_HUMAN, _ASSISTANT = "human", "gpt"


class InstructionImages(Corpus):
    """Images in the folders or zips of several instruction files: image ``name`` of folder ``n`` is ``n/name``.

    No documents, no captions. The content hash is of the files' names, sizes and times: the folders are large and not
    written to.
    """

    def __init__(self, folders: Sequence[Path], *, field: str) -> None:
        self.path = Path("+".join(map(str, folders)))
        self._folders = list(folders)
        self._stores = []
        for number, folder in enumerate(folders):
            try:
                self._stores.append(open_store(folder))
            except UserError as error:
                error.field = f"{field}.{number}.images"
                raise

    def has(self, name: str) -> bool:
        """Is there an image of that name?"""
        number, own = name.split("/", 1)
        root = self._folders[int(number)]
        if not self._stores[int(number)].has(own):
            return False
        if root.is_dir() and not (root / own).resolve().is_relative_to(root.resolve()):
            raise UserError(
                "the image is, or lies behind, a link that leads out of its folder; put what it leads to in its place",
                code="bad_path", file=root / own,
            )  # fmt: skip
        return True

    @property
    def documents(self) -> Documents:
        raise NotImplementedError

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        raise NotImplementedError

    def splits(self) -> dict[str, int]:
        return {}

    def image_bytes(self, name: str) -> bytes:
        number, own = name.split("/", 1)
        return self._stores[int(number)].read(own, MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        number, own = name.split("/", 1)
        return str(self._folders[int(number)] / own)

    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        digest = hashlib.sha256()
        for folder, store in zip(self._folders, self._stores, strict=True):
            for name in [""] if folder.is_file() else store.names():
                if (file := folder / name).exists():  # else a link to nothing
                    stat = file.stat()
                    digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Conversation:
    """Questions with answers; the first question shows the image, where there is one."""

    image: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """Conversations with their images.

    Attributes:
        source: their images, each once.
        rows: row in ``source`` of each conversation's image; None: it has none.
    """

    source: SplitImages
    conversations: list[Conversation]
    rows: list[int | None]


def read_conversations(sources: Sequence[InstructionsSpec], *, field: str) -> Conversations:
    """Read all files. Conversations whose image is not in the file's folder are left out."""
    images = InstructionImages([Path(source.images) for source in sources], field=field)
    kept: list[Conversation] = []
    for number, source in enumerate(sources):
        file = Path(source.path)
        if not file.is_file():
            raise UserError("there is no such file", code="corpus_unreadable", file=file)
        every = [
            replace(each, image=f"{number}/{each.image}") if each.image else each
            for each in parse_conversations(file.read_bytes(), file)
        ]
        try:
            usable = [each for each in every if each.image is None or images.has(each.image)]
        except UserError as error:
            error.field = f"{field}.{number}.images"
            raise
        if not any(each.image for each in usable):
            raise UserError(
                f"none of the images that {file.name} names are in this folder",
                code="no_data", field=f"{field}.{number}.images", file=source.images,
            )  # fmt: skip
        kept += usable
    return make_conversations(images, kept)


def make_conversations(corpus: Corpus, conversations: list[Conversation]) -> Conversations:
    """Conversations with their images numbered."""
    names = dict.fromkeys(each.image for each in conversations if each.image is not None)
    row_of = {name: row for row, name in enumerate(names)}
    rows = [None if each.image is None else row_of[each.image] for each in conversations]
    source = SplitImages(corpus, "conversations", [EvalImage(name, (), {}) for name in names])
    return Conversations(source, conversations, rows)


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

    def conversation(self) -> Conversation:
        texts = [message.value for message in self.conversations]
        turns = [
            Turn(question.replace(IMAGE_MARK, "").strip(), answer)
            for question, answer in zip(texts[::2], texts[1::2], strict=False)
        ]
        if self.image is not None:
            turns[0] = Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer)
        return Conversation(self.image, tuple(turns))


_ENTRIES = TypeAdapter(list[LlavaEntry])


def parse_conversations(data: bytes, file: Path) -> list[Conversation]:
    """The entries of a file in LLaVA's layout."""
    try:
        return [entry.conversation() for entry in _ENTRIES.validate_json(data.removeprefix(codecs.BOM_UTF8))]
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the list"
        message = f"entry {at} is not as expected ({first['msg']})"
        raise UserError(message, code="corpus_unreadable", file=file) from None


@dataclass(frozen=True)
class QuestionSet:
    """Questions about the images of one split.

    Attributes:
        benchmark: whose rule scores them, ``pope`` or ``seed-bench``.
        source: the images, each once.
        rows: [Q] row in ``source`` of each question's image.
    """

    benchmark: str
    source: SplitImages
    questions: list[BenchmarkQuestion]
    rows: Ints

    @property
    def turns(self) -> list[Turn]:
        """[Q] each question with its image and its prompt, not yet answered."""
        return [Turn(f"{IMAGE_MARK}\n{each.prompt.replace(IMAGE_MARK, ' ')}", None) for each in self.questions]


@dataclass(frozen=True)
class DialoguePlan:
    """Conversations of stage two, and questions about the tested splits.

    Attributes:
        entries: derived conversations; empty where the spec names files.
    """

    conversations: Conversations
    questions: list[QuestionSet]
    entries: list[Json] = field(default_factory=list)


def plan_dialogue(spec: EvaluateSpec, train: SplitImages, tests: dict[str, SplitImages]) -> DialoguePlan:
    """Conversations of the files that the spec names, else derived ones; and derived questions, unless it wants none.

    Args:
        train: images of derived conversations.
        tests: images of derived questions, by tested split.
    """
    own, derived = spec.dialogue, spec.dialogue.derived
    given = read_conversations(own.instructions, field=f"{FIELD}.instructions") if own.instructions else None
    if derived is None:
        if given is None:
            raise UserError(
                "without derived conversations, name instructions to learn from", code="no_data",
                field=f"{FIELD}.instructions",
            )  # fmt: skip
        return DialoguePlan(given, [])
    own_value = {each.name: each.labels[derived.label] for each in train.images if derived.label in each.labels}
    values = sorted(set(own_value.values()))
    if len(values) < 2:
        labels = ", ".join(sorted({key for image in train.images for key in image.labels})) or "none"
        raise UserError(
            f"label {derived.label!r} has {len(values)} values in split {own.train_split!r}, and questions take "
            f"two; the split's labels: {labels}; with instructions, derived null asks no questions",
            field=f"{FIELD}.derived.label",
        )  # fmt: skip
    questions = [each for images in tests.values() for each in _question_sets(spec, derived, images, values)]
    if given is not None:
        return DialoguePlan(given, questions)
    entries = derived_instructions(own_value, values, spec.seed)
    conversations = make_conversations(
        train.corpus, parse_conversations(json.dumps(entries).encode(), Path("instructions.json"))
    )
    return DialoguePlan(conversations, questions, entries)


def _question_sets(
    spec: EvaluateSpec, derived: DerivedSpec, images: SplitImages, values: Sequence[str]
) -> list[QuestionSet]:
    labeled = [image for image in images.images if image.labels.get(derived.label) in values]
    if not labeled:
        raise UserError(
            f"no image of split {images.split!r} has a {derived.label!r} of split {spec.dialogue.train_split!r}",
            code="no_data", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    if derived.questions < len(labeled):
        rng = np.random.default_rng(spec.seed)
        labeled = [labeled[row] for row in np.sort(rng.choice(len(labeled), derived.questions, replace=False))]
    source, row_of = replace(images, images=labeled), {image.name: row for row, image in enumerate(labeled)}
    own = {image.name: image.labels[derived.label] for image in labeled}
    return [
        QuestionSet(benchmark, source, questions, np.array([row_of[each.image] for each in questions], np.int64))
        for benchmark, questions in derived_questions(own, values, spec.seed).items()
    ]


def derived_instructions(own: Mapping[str, str], values: Sequence[str], seed: int) -> list[Json]:
    """Entries of LLaVA's JSON: yes, no and multiple choice in equal shares, two of each image.

    ``own``: the value of each image.
    """
    rng = np.random.default_rng([seed, 1])
    entries = []
    for row, (image, value) in enumerate(own.items()):
        for turn in range(2):
            kind = ("yes", "no", "choice")[(row + turn) % 3]
            if kind == "choice":
                chosen = choice_question("", image, value, values, rng)
                question, answer = chosen.prompt, chosen.truth
            else:
                question = yes_no_question(value, values, kind, rng) + SHORT_ANSWER_PROMPT
                answer = kind.capitalize()
            messages = [{"from": "human", "value": f"{IMAGE_MARK}\n{question}"}, {"from": "gpt", "value": answer}]
            entries.append({"id": f"{image}#{turn}", "image": image, "conversations": messages})
    return entries
