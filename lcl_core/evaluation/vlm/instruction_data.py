"""Instruction data of dialogue: conversations in LLaVA's JSON, and benchmarks; official files or synthetic ones.

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

_HUMAN, _ASSISTANT = "human", "gpt"


@dataclass(frozen=True)
class Conversation:
    """Questions with their answers, about a picture or none; the first question shows it."""

    image: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """Conversations and where their pictures lie.

    Attributes:
        pictures: each once.
        rows: the picture of each conversation; none: it has none.
        without_picture: conversations that are not used because their picture is not there.
    """

    corpus: Corpus
    pictures: list[EvalImage]
    conversations: list[Conversation]
    rows: list[int | None]
    without_picture: int


def read_conversations(sources: Sequence[InstructionsSpec], *, field: str) -> Conversations:
    """Read all files. Conversations whose picture is not in the file's folder are left out and counted.

    Args:
        field: of the evaluation's spec that holds ``sources``.

    Raises:
        UserError: ``benchmark_unreadable`` naming the file and the entry, or ``nothing_to_learn``.
    """
    albums, kept, gone = [], [], 0
    for place, source in enumerate(sources):
        album = FolderImages(Path(source.images), field=f"{field}.{place}.images")
        found = parse_conversations(read_entries(Path(source.path)), Path(source.path))
        there = [each for each in found if each.image is None or album.has(each.image)]
        if not any(each.image for each in there):
            raise UserError(
                f"none of the pictures that {Path(source.path).name} names are in this folder",
                code="nothing_to_learn", field=f"{field}.{place}.images", file=source.images,
            )  # fmt: skip
        albums.append(album)
        gone += len(found) - len(there)
        kept += [replace(each, image=f"{place}/{each.image}") if each.image else each for each in there]
    return make_conversations(CombinedImages(albums), kept, without_picture=gone)


def make_conversations(corpus: Corpus, conversations: list[Conversation], *, without_picture: int = 0) -> Conversations:
    """Conversations with their pictures numbered."""
    names = dict.fromkeys(each.image for each in conversations if each.image is not None)
    row_of = {name: row for row, name in enumerate(names)}
    rows = [None if each.image is None else row_of[each.image] for each in conversations]
    return Conversations(corpus, [EvalImage(name, (), {}) for name in names], conversations, rows, without_picture)


def parse_conversations(entries: Sequence[dict[str, Any]], file: Path) -> list[Conversation]:
    """Entries of a file in LLaVA's layout."""
    return [_parse_conversation(entry, place, file) for place, entry in enumerate(entries)]


def _parse_conversation(entry: dict[str, Any], place: int, file: Path) -> Conversation:
    with entry_errors(file, entry.get("id", place)):
        image = entry.get("image")
        if image is not None and not isinstance(image, str):
            raise_format_error(f"entry {entry.get('id', place)} has several pictures; one can be shown", file)
        said = [(str(each["from"]), str(each["value"])) for each in entry["conversations"]]
        turns = list(_parse_turns(said[1:] if said and said[0][0] != _HUMAN else said))
        if not turns:
            raise ValueError("no question with an answer")
        return Conversation(image, _image_first(turns) if image is not None else tuple(turns))


def _parse_turns(said: Sequence[tuple[str, str]]) -> list[Turn]:
    """Questions and answers by turns; a question at the end that nobody answered is dropped."""
    turns = []
    for asked, answered in zip(said[::2], said[1::2], strict=False):
        if (asked[0], answered[0]) != (_HUMAN, _ASSISTANT):
            raise ValueError(f"{asked[0]} and {answered[0]} where {_HUMAN} and {_ASSISTANT} are expected")
        turns.append(Turn(asked[1].replace(IMAGE_MARK, "").strip(), answered[1]))
    return turns


def _image_first(turns: list[Turn]) -> tuple[Turn, ...]:
    """The picture stands at the head of the first question, wherever the file had it."""
    return Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer), *turns[1:]


FIELD = "dialogue"


@dataclass(frozen=True)
class SyntheticQuestions:
    """Derived questions about one split: POPE's files by split, and SEED-Bench's file."""

    pope: dict[str, list[Json]]
    seed: Json


@dataclass(frozen=True)
class DialoguePlan:
    """What is taught in stage two, what is asked, and what of both was derived.

    Attributes:
        entries: derived conversations; empty where official ones are taught.
        questions: derived questions by tested split; empty where official ones are asked.
    """

    taught: Conversations
    exams: list[BenchmarkSet]
    entries: list[Json] = field(default_factory=list)
    questions: dict[str, SyntheticQuestions] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """The derived files, laid out as official ones are."""
        if self.entries:
            write_instructions(folder, self.entries)
        for split, asked in self.questions.items():
            write_questions(folder / split, asked.pope, asked.seed)


def plan_dialogue(
    spec: EvaluateSpec,
    train: Sequence[EvalImage],
    teacher: Corpus,
    galleries: dict[str, list[EvalImage]],
    corpus: Corpus,
) -> DialoguePlan:
    """Official conversations and benchmarks as far as the spec names them, derived ones else.

    Args:
        train, teacher: pictures that derived conversations are about, and where they lie.
        galleries, corpus: pictures that derived questions are about, by tested split, and where they lie.

    Raises:
        UserError: files cannot be read; ``label_unknown`` or ``nothing_to_score``, naming the field.
    """
    own = spec.dialogue
    known = None if own.instructions and own.benchmarks else _label_distractors(spec, train)
    entries: list[Json] = []
    if own.instructions:
        taught = read_conversations(own.instructions, field=f"{FIELD}.instructions")
    else:
        assert known is not None
        entries = synthetic_instructions(train, known, own.derived.per_picture, spec.seed)
        taught = make_conversations(teacher, parse_conversations(entries, Path("instructions.json")))
    if own.benchmarks:
        exams = [
            load_benchmark_set(each, own.max_questions, seed=spec.seed, field=f"{FIELD}.benchmarks.{place}")
            for place, each in enumerate(own.benchmarks)
        ]
        return DialoguePlan(taught, exams, entries)
    assert known is not None
    questions = {split: _synthetic_questions(spec, split, pictures, known) for split, pictures in galleries.items()}
    exams = [each for split, asked in questions.items() for each in _synthetic_benchmarks(asked, split, corpus)]
    return DialoguePlan(taught, exams, entries, questions)


def _label_distractors(spec: EvaluateSpec, train: Sequence[EvalImage]) -> Distractors:
    label, split = spec.dialogue.derived.label, spec.dialogue.train_split
    known = label_distractors(label, train)
    if len(known.counts) < 2:
        labels = ", ".join(sorted({key for picture in train for key in picture.labels})) or "none"
        raise UserError(
            f"label {label!r} has {len(known.counts)} values in split {split!r}, and questions take two; "
            f"the split's labels: {labels}",
            code="label_unknown", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    return known


def _synthetic_questions(
    spec: EvaluateSpec, split: str, pictures: list[EvalImage], known: Distractors
) -> SyntheticQuestions:
    own = spec.dialogue
    sure = [picture for picture in pictures if picture.labels.get(known.label) in known.counts]
    if not sure:
        raise UserError(
            f"no picture of split {split!r} has a {known.label!r} that split {own.train_split!r} teaches",
            code="nothing_to_score", field=f"{FIELD}.derived.label",
        )  # fmt: skip
    names = sample_names([picture.image for picture in sure], own.derived.questions, spec.seed)
    asked = [picture for picture in sure if picture.image in names]
    return SyntheticQuestions(synthetic_pope(asked, known, spec.seed), synthetic_seed_bench(asked, known, spec.seed))


def _synthetic_benchmarks(asked: SyntheticQuestions, split: str, corpus: Corpus) -> list[BenchmarkSet]:
    """The questions, written and read back by the readers of the official files."""
    with tempfile.TemporaryDirectory() as folder:
        write_questions(Path(folder), asked.pope, asked.seed)
        return [
            _synthetic_benchmark(name, split, corpus, Path(folder) / place) for name, place in _SYNTHETIC_FILES.items()
        ]


_SYNTHETIC_FILES = {"pope": "pope", "seed-bench": "SEED-Bench.json"}


def _synthetic_benchmark(benchmark: str, split: str, corpus: Corpus, path: Path) -> BenchmarkSet:
    return make_benchmark_set(benchmark, split, corpus, get_benchmark(benchmark).load(path))
