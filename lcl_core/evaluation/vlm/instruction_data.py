"""Data of dialogue: conversations in LLaVA's JSON and benchmark sets, from official files or synthetic ones.

    [{"id", "image": "name in the folder", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                             {"from": "gpt", "value": "…"}, …]}, …]

An entry without ``image`` is a conversation without an image. Source: github.com/haotian-liu/LLaVA
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks.io import entry_errors, raise_format_error, read_entries
from lcl_core.evaluation.benchmarks.registry import get_benchmark
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.benchmark import BenchmarkSet, load_benchmark_set, make_benchmark_set, sample_names
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
from lcl_core.evaluation.vlm.image_source import CombinedImages, FolderImages
from lcl_core.evaluation.vlm.synthetic_vqa import (
    Distractors,
    Json,
    label_distractors,
    synthetic_instructions,
    synthetic_pope,
    synthetic_seed_bench,
    write_instructions,
    write_questions,
)
from lcl_core.specs.evaluate import EvaluateSpec, InstructionsSpec

FIELD = "dialogue"
_HUMAN, _ASSISTANT = "human", "gpt"
_SYNTHETIC_FILES = {"pope": "pope", "seed-bench": "SEED-Bench.json"}


@dataclass(frozen=True)
class Conversation:
    """Questions with answers; the first question shows the image, where there is one."""

    image: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """Conversations with their images.

    Attributes:
        images: each once.
        rows: row in ``images`` of each conversation's image; None: it has none.
        without_image: conversations that are left out because their image is missing.
    """

    corpus: Corpus
    images: list[EvalImage]
    conversations: list[Conversation]
    rows: list[int | None]
    without_image: int


def read_conversations(sources: Sequence[InstructionsSpec], *, field: str) -> Conversations:
    """Read all files. Conversations whose image is not in the file's folder are left out and counted.

    Args:
        field: of the evaluation's spec that holds ``sources``.

    Raises:
        UserError: ``benchmark_unreadable`` naming the file and the entry, or ``nothing_to_learn``.
    """
    folders, kept, missing = [], [], 0
    for number, source in enumerate(sources):
        folder, file = FolderImages(Path(source.images), field=f"{field}.{number}.images"), Path(source.path)
        every = parse_conversations(read_entries(file), file)
        usable = [each for each in every if each.image is None or folder.has(each.image)]
        if not any(each.image for each in usable):
            raise UserError(
                f"none of the images that {file.name} names are in this folder",
                code="nothing_to_learn", field=f"{field}.{number}.images", file=source.images,
            )  # fmt: skip
        folders.append(folder)
        missing += len(every) - len(usable)
        kept += [replace(each, image=f"{number}/{each.image}") if each.image else each for each in usable]
    return make_conversations(CombinedImages(folders), kept, without_image=missing)


def make_conversations(corpus: Corpus, conversations: list[Conversation], *, without_image: int = 0) -> Conversations:
    """Conversations with their images numbered."""
    names = dict.fromkeys(each.image for each in conversations if each.image is not None)
    row_of = {name: row for row, name in enumerate(names)}
    rows = [None if each.image is None else row_of[each.image] for each in conversations]
    return Conversations(corpus, [EvalImage(name, (), {}) for name in names], conversations, rows, without_image)


def parse_conversations(entries: Sequence[dict[str, Any]], file: Path) -> list[Conversation]:
    """The entries of a file in LLaVA's layout. Raises: UserError ``benchmark_unreadable``."""
    return [_parse_conversation(entry, entry.get("id", number), file) for number, entry in enumerate(entries)]


def _parse_conversation(entry: dict[str, Any], name: object, file: Path) -> Conversation:
    with entry_errors(file, name):
        image = entry.get("image")
        if image is not None and not isinstance(image, str):
            raise_format_error(f"entry {name} has several images; one can be shown", file)
        messages = [(str(each["from"]), str(each["value"])) for each in entry["conversations"]]
        turns = _parse_turns(messages[1:] if messages and messages[0][0] != _HUMAN else messages)
        if not turns:
            raise ValueError("no question with an answer")
        if image is not None:
            turns[0] = Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer)
        return Conversation(image, tuple(turns))


def _parse_turns(messages: Sequence[tuple[str, str]]) -> list[Turn]:
    """Questions and answers without image marks; a last question without an answer is dropped."""
    turns = []
    for question, answer in zip(messages[::2], messages[1::2], strict=False):
        if (question[0], answer[0]) != (_HUMAN, _ASSISTANT):
            raise ValueError(f"{question[0]} and {answer[0]} where {_HUMAN} and {_ASSISTANT} are expected")
        turns.append(Turn(question[1].replace(IMAGE_MARK, "").strip(), answer[1]))
    return turns


@dataclass(frozen=True)
class SyntheticQuestions:
    """Synthetic questions about one split: POPE's files by split, and SEED-Bench's file."""

    pope: dict[str, list[Json]]
    seed: Json


@dataclass(frozen=True)
class DialoguePlan:
    """Conversations of stage two, benchmark sets, and the synthetic parts of both.

    Attributes:
        entries: synthetic conversations; empty where official ones are used.
        questions: synthetic questions by tested split; empty where official ones are used.
    """

    conversations: Conversations
    benchmarks: list[BenchmarkSet]
    entries: list[Json] = field(default_factory=list)
    questions: dict[str, SyntheticQuestions] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """The synthetic files, laid out as official ones are."""
        if self.entries:
            write_instructions(folder, self.entries)
        for split, questions in self.questions.items():
            write_questions(folder / split, questions.pope, questions.seed)


def plan_dialogue(
    spec: EvaluateSpec,
    train: Sequence[EvalImage],
    train_corpus: Corpus,
    tests: dict[str, list[EvalImage]],
    corpus: Corpus,
) -> DialoguePlan:
    """Official conversations and benchmarks as far as the spec names them, else synthetic ones.

    Args:
        train, train_corpus: images of synthetic conversations.
        tests, corpus: images of synthetic questions, by tested split.

    Raises:
        UserError: files cannot be read; ``label_unknown`` or ``nothing_to_score``, naming the field.
    """
    own = spec.dialogue
    known = None if own.instructions and own.benchmarks else _distractors(spec, train)
    entries: list[Json] = []
    if own.instructions:
        conversations = read_conversations(own.instructions, field=f"{FIELD}.instructions")
    else:
        assert known is not None
        entries = synthetic_instructions(train, known, own.derived.per_picture, spec.seed)
        conversations = make_conversations(train_corpus, parse_conversations(entries, Path("instructions.json")))
    if own.benchmarks:
        benchmarks = [
            load_benchmark_set(each, own.max_questions, seed=spec.seed, field=f"{FIELD}.benchmarks.{number}")
            for number, each in enumerate(own.benchmarks)
        ]
        return DialoguePlan(conversations, benchmarks, entries)
    assert known is not None
    questions = {split: _synthetic_questions(spec, split, images, known) for split, images in tests.items()}
    benchmarks = [each for split, made in questions.items() for each in _synthetic_benchmarks(made, split, corpus)]
    return DialoguePlan(conversations, benchmarks, entries, questions)


def _distractors(spec: EvaluateSpec, train: Sequence[EvalImage]) -> Distractors:
    label, split = spec.dialogue.derived.label, spec.dialogue.train_split
    known = label_distractors(label, train)
    if len(known.counts) < 2:
        labels = ", ".join(sorted({key for image in train for key in image.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(known.counts)} values in split {split!r}, and questions take two; "
            f"the split's labels: {labels}",
            code="label_unknown", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    return known


def _synthetic_questions(
    spec: EvaluateSpec, split: str, images: list[EvalImage], known: Distractors
) -> SyntheticQuestions:
    own = spec.dialogue
    labeled = [image for image in images if image.labels.get(known.label) in known.counts]
    if not labeled:
        raise UserError(
            f"no image of split {split!r} has a {known.label!r} that split {own.train_split!r} teaches",
            code="nothing_to_score", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    names = sample_names([image.name for image in labeled], own.derived.questions, spec.seed)
    chosen = [image for image in labeled if image.name in names]
    return SyntheticQuestions(synthetic_pope(chosen, known, spec.seed), synthetic_seed_bench(chosen, known, spec.seed))


def _synthetic_benchmarks(questions: SyntheticQuestions, split: str, corpus: Corpus) -> list[BenchmarkSet]:
    """The questions, written and read back by the readers of the official files."""
    with tempfile.TemporaryDirectory() as folder:
        write_questions(Path(folder), questions.pope, questions.seed)
        return [
            make_benchmark_set(name, split, corpus, get_benchmark(name).load(Path(folder) / file))
            for name, file in _SYNTHETIC_FILES.items()
        ]
