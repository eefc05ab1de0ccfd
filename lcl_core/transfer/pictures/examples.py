"""What to show of a sheet: its samples as pictures with words, and how well each went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lcl_core.transfer.answers import Answered, scorer
from lcl_core.transfer.language.captions import score_captions
from lcl_core.transfer.records import IMAGE_TO_CLASS, IMAGE_TO_TEXT, Sheet


@dataclass(frozen=True)
class Example:
    """One sample of a sheet.

    Attributes:
        images: names in the corpus.
        words: lines under them.
        goodness: the higher the better.
        right: whether it counts as right; none where there is no such thing.
    """

    images: tuple[str, ...]
    words: tuple[str, ...]
    goodness: float
    right: bool | None


def rank_examples(sheet: Sheet, samples: Sequence[dict[str, Any]]) -> list[Example]:
    """Of a sheet of ranks: a class with its picture, a picture with the texts it found, a text with its pictures."""
    if sheet.part == IMAGE_TO_CLASS:
        return [_classified(sample) for sample in samples]
    return [(_described if sheet.part == IMAGE_TO_TEXT else _illustrated)(sample) for sample in samples]


def caption_examples(sheet: Sheet, samples: Sequence[dict[str, Any]]) -> list[Example]:
    """A picture with the caption that was written and the first of its own; CIDEr says how good it is."""
    written = {sample["query"]: sample["caption"] for sample in samples}
    own = {sample["query"]: sample["references"] for sample in samples}
    ciders = score_captions(written, own, with_meteor=False).per_picture["CIDEr"]
    return [
        Example((name,), (f"“{written[name]}” ({cider:.2f})", f"own: {own[name][0]}"), float(cider), None)
        for name, cider in zip(written, ciders, strict=True)
    ]


def answer_examples(sheet: Sheet, samples: Sequence[dict[str, Any]]) -> list[Example]:
    """A picture with a question, the answer that was given and the right one."""
    records = [Answered.from_dict(sample) for sample in samples]
    scores = scorer(sheet.facts["benchmark"]).score(records)
    points: dict[str, float] = {}
    for metric, units in scores.samples.items():
        if metric.startswith("acc"):  # accuracy, acc: of a question; acc+ is of a picture
            points |= units
    return [_answered(record, points.get(record.question.id)) for record in records]


# A kind of records that is not here has no examples to show.
EXAMPLES: dict[str, Callable[[Sheet, Sequence[dict[str, Any]]], list[Example]]] = {
    "ranks": rank_examples,
    "captions": caption_examples,
    "answers": answer_examples,
}


def _classified(sample: dict[str, Any]) -> Example:
    share = sample["probability"]
    words = (f"is {sample['label']} ({share:.0%})", f"seen as {sample['top'][0]}")
    return Example((sample["query"],), words, share, sample["rank"] == 1)


def _described(sample: dict[str, Any]) -> Example:
    words = (f"own text at rank {sample['rank']}; first:", *sample["top"][:3])
    return Example((sample["query"],), words, -sample["rank"], sample["rank"] == 1)


def _illustrated(sample: dict[str, Any]) -> Example:
    words = (f"“{sample['query']}”", f"own picture at rank {sample['rank']}")
    return Example(tuple(sample["top"]), words, -sample["rank"], sample["rank"] == 1)


def _answered(record: Answered, points: float | None) -> Example:
    question = record.question
    truth = question.options.get(question.truth[0], question.truth[0])
    said = record.answer if record.answer is not None else "nothing"
    words = (question.text, f"“{said}”; right: {truth}")
    return Example((question.image,), words, points or 0.0, None if points is None else points >= _HALF)


_HALF = 0.5  # of a question's points, from which on an answer counts as right
