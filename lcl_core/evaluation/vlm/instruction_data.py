"""Data of dialogue: conversations in LLaVA's JSON and benchmark sets, from official files or synthetic ones.

    [{"id", "image": "name in the folder", "conversations": [{"from": "human", "value": "<image>\\n…"},
                                                             {"from": "gpt", "value": "…"}, …]}, …]

An entry without ``image`` is a conversation without an image. Source: github.com/haotian-liu/LLaVA

Synthetic conversations and questions come from labelled images, for a dataset without a benchmark of its own, in the
layouts of LLaVA, POPE and SEED-Bench. They cover one label and are no substitute for the benchmarks: numbers on them
compare encoders on one dataset.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.evaluation.benchmarks import get_benchmark
from lcl_core.evaluation.benchmarks.base import LETTER_PROMPT, SHORT_ANSWER_PROMPT
from lcl_core.evaluation.benchmarks.io import entry_errors, raise_format_error, read_entries
from lcl_core.evaluation.benchmarks.yes_no import SPLITS
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.benchmark import (
    BenchmarkSet,
    CombinedImages,
    FolderImages,
    load_benchmark_sets,
    make_benchmark_set,
    sample_names,
)
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
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
        field = f"{FIELD}.benchmarks"
        benchmarks = load_benchmark_sets(own.benchmarks, own.max_questions, seed=spec.seed, field=field)
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


Json = dict[str, Any]

_LETTERS = "ABCD"
_POOL = 3  # values from which popular and adversarial questions are drawn
_POPE_QUESTION = 'Is there something of the kind "{}" in the image?'
_CHOICE_QUESTION = "What kind of thing does the image show?"


@dataclass(frozen=True)
class Distractors:
    """Wrong answers for a label.

    Attributes:
        label: the key.
        counts: training images of each value, the most frequent first.
        alike: of each value the others, most similar in the images' further labels first.
    """

    label: str
    counts: dict[str, int]
    alike: dict[str, list[str]]

    def negative(self, own: str, split: str, rng: np.random.Generator) -> str:
        """A wrong value as POPE draws it: any, one of the most frequent, or one of the most similar."""
        others = [value for value in self.counts if value != own]
        pool = {"random": others, "popular": others[:_POOL], "adversarial": self.alike[own][:_POOL]}[split]
        return pool[int(rng.integers(len(pool)))]

    def options(self, own: str, rng: np.random.Generator) -> tuple[dict[str, str], str]:
        """Four values, fewer where there are fewer, and the letter of the correct one."""
        others = [value for value in self.counts if value != own]
        wrong = rng.choice(len(others), min(len(_LETTERS) - 1, len(others)), replace=False)
        values = [own, *(others[number] for number in wrong)]
        shuffled = [values[number] for number in rng.permutation(len(values))]
        return dict(zip(_LETTERS, shuffled, strict=False)), _LETTERS[shuffled.index(own)]


def label_distractors(label: str, train: Sequence[EvalImage]) -> Distractors:
    """The values of ``label`` among the training images."""
    counts = Counter(image.labels[label] for image in train if label in image.labels)
    ordered = dict(counts.most_common())
    profiles = {value: _label_profile(label, value, train) for value in ordered}
    alike = {
        value: sorted(
            (other for other in ordered if other != value),
            key=lambda other: -_profile_overlap(profiles[value], profiles[other]),
        )
        for value in ordered
    }
    return Distractors(label, ordered, alike)


def _label_profile(label: str, value: str, train: Sequence[EvalImage]) -> dict[tuple[str, str], float]:
    """Share of the images of a value that carry each further label."""
    own = [image.labels for image in train if image.labels.get(label) == value]
    counts = Counter(pair for labels in own for pair in labels.items() if pair[0] != label)
    return {pair: count / len(own) for pair, count in counts.items()}


def _profile_overlap(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> float:
    return sum(min(share, other.get(pair, 0.0)) for pair, share in one.items())


def synthetic_instructions(train: Sequence[EvalImage], known: Distractors, per_image: int, seed: int) -> list[Json]:
    """Entries of LLaVA's JSON: yes, no and multiple choice in equal shares, ``per_image`` of each image."""
    rng = np.random.default_rng([seed, 1])
    entries = []
    for row, image in enumerate(image for image in train if known.label in image.labels):
        own = image.labels[known.label]
        kinds = [(_yes_example, _no_example, _choice_example)[(row + turn) % 3] for turn in range(per_image)]
        for turn, kind in enumerate(kinds):
            question, answer = kind(own, known, rng)
            messages = [
                {"from": "human", "value": f"{IMAGE_MARK}\n{question}"},
                {"from": "gpt", "value": answer},
            ]
            entries.append({"id": f"{image.name}#{turn}", "image": image.name, "conversations": messages})
    return entries


def _yes_example(own: str, known: Distractors, rng: np.random.Generator) -> tuple[str, str]:
    return _POPE_QUESTION.format(own) + SHORT_ANSWER_PROMPT, "Yes"


def _no_example(own: str, known: Distractors, rng: np.random.Generator) -> tuple[str, str]:
    split = SPLITS[int(rng.integers(len(SPLITS)))]
    return _POPE_QUESTION.format(known.negative(own, split, rng)) + SHORT_ANSWER_PROMPT, "No"


def _choice_example(own: str, known: Distractors, rng: np.random.Generator) -> tuple[str, str]:
    options, letter = known.options(own, rng)
    return _CHOICE_QUESTION + "".join(f"\n{key}. {value}" for key, value in options.items()) + LETTER_PROMPT, letter


def synthetic_pope(test: Sequence[EvalImage], known: Distractors, seed: int) -> dict[str, list[Json]]:
    """For each of POPE's splits a question with yes and one with no about each image."""
    by_split: dict[str, list[Json]] = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, 2, number])
        entries = by_split.setdefault(split, [])
        for image in test:
            own = image.labels[known.label]
            for value, label in ((own, "yes"), (known.negative(own, split, rng), "no")):
                text = _POPE_QUESTION.format(value)
                entries.append({"question_id": len(entries) + 1, "image": image.name, "text": text, "label": label})
    return by_split


def synthetic_seed_bench(test: Sequence[EvalImage], known: Distractors, seed: int) -> Json:
    """SEED-Bench's file with one question about each image, in one dimension named after the label."""
    rng = np.random.default_rng([seed, 3])
    questions = []
    for number, image in enumerate(test, start=1):
        options, letter = known.options(image.labels[known.label], rng)
        questions.append(
            {
                "question_id": str(number),
                "question_type_id": 1,
                "question": _CHOICE_QUESTION,
                "data_id": image.name,
                "data_type": "image",
                "answer": letter,
                **{f"choice_{each.lower()}": options.get(each, "none of these") for each in _LETTERS},
            }
        )
    return {"questions": questions, "question_type": {known.label: 1}}


def write_instructions(folder: Path, entries: list[Json]) -> None:
    """``instructions.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instructions.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")


def write_questions(folder: Path, pope: Mapping[str, list[Json]], seed: Json) -> None:
    """``pope/derived_pope_SPLIT.json`` and ``SEED-Bench.json``."""
    (folder / "pope").mkdir(parents=True, exist_ok=True)
    (folder / "SEED-Bench.json").write_text(json.dumps(seed, indent=1, ensure_ascii=False), encoding="utf-8")
    for split, entries in pope.items():
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        (folder / "pope" / f"derived_pope_{split}.json").write_text(lines, encoding="utf-8")
