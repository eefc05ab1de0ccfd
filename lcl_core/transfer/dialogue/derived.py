"""Conversations and questions made from labelled pictures, for a dataset that has no benchmark of its own.

They are written in the layouts of LLaVA, POPE and SEED-Bench and read again by the readers of those. They are no
substitute for the benchmarks: they ask about one label alone, and numbers on them compare encoders on this dataset.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.transfer.answers.pope import SPLITS
from lcl_core.transfer.bridge.turns import MARK
from lcl_core.transfer.dialogue.prompts import LETTER, SHORT
from lcl_core.transfer.gallery import Picture

Json = dict[str, Any]

_LETTERS = "ABCD"
_POOL = 3  # values that popular and adversarial questions are drawn from
_POPE_WORDS = 'Is there something of the kind "{}" in the image?'
_CHOICE_WORDS = "What kind of thing does the image show?"


@dataclass(frozen=True)
class Rivals:
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




def rivals(label: str, train: Sequence[Picture]) -> Rivals:
    """The values of ``label`` among the training pictures."""
    counts = Counter(picture.labels[label] for picture in train if label in picture.labels)
    ordered = dict(counts.most_common())
    company = {value: _company(label, value, train) for value in ordered}
    alike = {
        value: sorted(
            (other for other in ordered if other != value), key=lambda other: -_shared(company[value], company[other])
        )
        for value in ordered
    }
    return Rivals(label, ordered, alike)


def _company(label: str, value: str, train: Sequence[Picture]) -> dict[tuple[str, str], float]:
    """How often the pictures of a value carry each further label, as shares."""
    own = [picture.labels for picture in train if picture.labels.get(label) == value]
    counts = Counter(pair for labels in own for pair in labels.items() if pair[0] != label)
    return {pair: count / len(own) for pair, count in counts.items()}


def _shared(one: Mapping[tuple[str, str], float], other: Mapping[tuple[str, str], float]) -> float:
    return sum(min(share, other.get(pair, 0.0)) for pair, share in one.items())


def instructions(train: Sequence[Picture], known: Rivals, per_picture: int, seed: int) -> list[Json]:
    """Entries of LLaVA's JSON: yes, no and multiple choice in equal shares, ``per_picture`` of each picture."""
    draw = np.random.default_rng([seed, 1])
    entries = []
    for place, picture in enumerate(picture for picture in train if known.label in picture.labels):
        own = picture.labels[known.label]
        kinds = [(_said_yes, _said_no, _said_letter)[(place + turn) % 3] for turn in range(per_picture)]
        for turn, kind in enumerate(kinds):
            question, answer = kind(own, known, draw)
            entries.append(
                {
                    "id": f"{picture.image}#{turn}",
                    "image": picture.image,
                    "conversations": [
                        {"from": "human", "value": f"{MARK}\n{question}"},
                        {"from": "gpt", "value": answer},
                    ],
                }
            )
    return entries


def _said_yes(own: str, known: Rivals, draw: np.random.Generator) -> tuple[str, str]:
    return _POPE_WORDS.format(own) + SHORT, "Yes"


def _said_no(own: str, known: Rivals, draw: np.random.Generator) -> tuple[str, str]:
    split = SPLITS[int(draw.integers(len(SPLITS)))]
    return _POPE_WORDS.format(known.negative(own, split, draw)) + SHORT, "No"


def _said_letter(own: str, known: Rivals, draw: np.random.Generator) -> tuple[str, str]:
    options, letter = _options(own, known, draw)
    return _CHOICE_WORDS + "".join(f"\n{key}. {value}" for key, value in options.items()) + LETTER, letter


def _options(own: str, known: Rivals, draw: np.random.Generator) -> tuple[dict[str, str], str]:
    """Four values, fewer where there are fewer, and the letter of the right one."""
    others = [value for value in known.counts if value != own]
    wrong = draw.choice(len(others), min(len(_LETTERS) - 1, len(others)), replace=False)
    values = [own, *(others[place] for place in wrong)]
    shuffled = [values[place] for place in draw.permutation(len(values))]
    return dict(zip(_LETTERS, shuffled, strict=False)), _LETTERS[shuffled.index(own)]


def pope_entries(asked: Sequence[Picture], known: Rivals, seed: int) -> dict[str, list[Json]]:
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
                        "text": _POPE_WORDS.format(value),
                        "label": label,
                    }
                )
    return found


def seed_bench(asked: Sequence[Picture], known: Rivals, seed: int) -> Json:
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
                "question": _CHOICE_WORDS,
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
