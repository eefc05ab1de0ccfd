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

from lcl_core.evaluation.benchmarks.pope import SPLITS
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.benchmark import LETTER_PROMPT, SHORT_ANSWER_PROMPT
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK

Json = dict[str, Any]

_LETTERS = "ABCD"
_POOL = 3  # values that popular and adversarial questions are drawn from
_POPE_QUESTION = 'Is there something of the kind "{}" in the image?'
_CHOICE_QUESTION = "What kind of thing does the image show?"


@dataclass(frozen=True)
class Distractors:
    """The values of a label, as wrong answers are drawn from them.

    Attributes:
        label: the key.
        counts: training pictures of each value, the most frequent first.
        alike: of each value the others, those that share most with it in the pictures' further labels first.
    """

    label: str
    counts: dict[str, int]
    alike: dict[str, list[str]]

    def negative(self, own: str, split: str, draw: np.random.Generator) -> str:
        """A wrong value, as POPE draws them: any, one of the most frequent, or one of those most like the right one."""
        others = [value for value in self.counts if value != own]
        pool = {"random": others, "popular": others[:_POOL], "adversarial": self.alike[own][:_POOL]}[split]
        return pool[int(draw.integers(len(pool)))]


def label_distractors(label: str, train: Sequence[EvalImage]) -> Distractors:
    """The values of ``label`` among the training pictures."""
    counts = Counter(picture.labels[label] for picture in train if label in picture.labels)
    ordered = dict(counts.most_common())
    company = {value: _label_profile(label, value, train) for value in ordered}
    alike = {
        value: sorted(
            (other for other in ordered if other != value),
            key=lambda other: -_profile_overlap(company[value], company[other]),
        )
        for value in ordered
    }
    return Distractors(label, ordered, alike)


def _label_profile(label: str, value: str, train: Sequence[EvalImage]) -> dict[tuple[str, str], float]:
    """How often the pictures of a value carry each further label, as shares."""
    own = [picture.labels for picture in train if picture.labels.get(label) == value]
    counts = Counter(pair for labels in own for pair in labels.items() if pair[0] != label)
    return {pair: count / len(own) for pair, count in counts.items()}


def _profile_overlap(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> float:
    return sum(min(share, other.get(pair, 0.0)) for pair, share in one.items())


def synthetic_instructions(train: Sequence[EvalImage], known: Distractors, per_picture: int, seed: int) -> list[Json]:
    """Entries of LLaVA's JSON: yes, no and multiple choice in equal shares, ``per_picture`` of each picture."""
    draw = np.random.default_rng([seed, 1])
    entries = []
    for place, picture in enumerate(picture for picture in train if known.label in picture.labels):
        own = picture.labels[known.label]
        kinds = [(_yes_example, _no_example, _choice_example)[(place + turn) % 3] for turn in range(per_picture)]
        for turn, kind in enumerate(kinds):
            question, answer = kind(own, known, draw)
            entries.append(
                {
                    "id": f"{picture.image}#{turn}",
                    "image": picture.image,
                    "conversations": [
                        {"from": "human", "value": f"{IMAGE_MARK}\n{question}"},
                        {"from": "gpt", "value": answer},
                    ],
                }
            )
    return entries


def _yes_example(own: str, known: Distractors, draw: np.random.Generator) -> tuple[str, str]:
    return _POPE_QUESTION.format(own) + SHORT_ANSWER_PROMPT, "Yes"


def _no_example(own: str, known: Distractors, draw: np.random.Generator) -> tuple[str, str]:
    split = SPLITS[int(draw.integers(len(SPLITS)))]
    return _POPE_QUESTION.format(known.negative(own, split, draw)) + SHORT_ANSWER_PROMPT, "No"


def _choice_example(own: str, known: Distractors, draw: np.random.Generator) -> tuple[str, str]:
    options, letter = _options(own, known, draw)
    return _CHOICE_QUESTION + "".join(f"\n{key}. {value}" for key, value in options.items()) + LETTER_PROMPT, letter


def _options(own: str, known: Distractors, draw: np.random.Generator) -> tuple[dict[str, str], str]:
    """Four values, fewer where there are fewer, and the letter of the right one."""
    others = [value for value in known.counts if value != own]
    wrong = draw.choice(len(others), min(len(_LETTERS) - 1, len(others)), replace=False)
    values = [own, *(others[place] for place in wrong)]
    shuffled = [values[place] for place in draw.permutation(len(values))]
    return dict(zip(_LETTERS, shuffled, strict=False)), _LETTERS[shuffled.index(own)]


def synthetic_pope(asked: Sequence[EvalImage], known: Distractors, seed: int) -> dict[str, list[Json]]:
    """For each of POPE's splits a question with yes and one with no about each picture."""
    found: dict[str, list[Json]] = {}
    for place, split in enumerate(SPLITS):
        draw = np.random.default_rng([seed, 2, place])
        entries = found.setdefault(split, [])
        for picture in asked:
            own = picture.labels[known.label]
            for value, label in ((own, "yes"), (known.negative(own, split, draw), "no")):
                entries.append(
                    {
                        "question_id": len(entries) + 1,
                        "image": picture.image,
                        "text": _POPE_QUESTION.format(value),
                        "label": label,
                    }
                )
    return found


def synthetic_seed_bench(asked: Sequence[EvalImage], known: Distractors, seed: int) -> Json:
    """SEED-Bench's file with one question about each picture, in one dimension named after the label."""
    draw = np.random.default_rng([seed, 3])
    questions = []
    for number, picture in enumerate(asked, start=1):
        options, letter = _options(picture.labels[known.label], known, draw)
        texts = [options.get(each, "none of these") for each in _LETTERS]
        questions.append(
            {
                "question_id": str(number),
                "question_type_id": 1,
                "question": _CHOICE_QUESTION,
                "data_id": picture.image,
                "data_type": "image",
                "answer": letter,
                **{f"choice_{each.lower()}": text for each, text in zip(_LETTERS, texts, strict=True)},
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
