"""Synthetic conversations and questions from labelled images, for a dataset without a benchmark of its own.

They use the layouts of LLaVA, POPE and SEED-Bench. They cover one label and are no substitute for the benchmarks:
numbers on them compare encoders on one dataset.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.evaluation.benchmarks.base import LETTER_PROMPT, SHORT_ANSWER_PROMPT
from lcl_core.evaluation.benchmarks.pope import SPLITS
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK

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
