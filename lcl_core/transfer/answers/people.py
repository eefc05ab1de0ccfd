"""The accuracy of an answer that ten people gave theirs to: VQA and VizWiz."""

from __future__ import annotations

from collections.abc import Sequence

from lcl_core.transfer.answers.vqa_words import normalise, without_punctuation

_ENOUGH = 3


def consensus(answer: str | None, people: Sequence[str]) -> float:
    """min(same answers / 3, 1), averaged over the subsets that leave one person out.

    As in the official program, people's answers lose their punctuation only where they differ, and are
    otherwise taken as published.
    """
    if answer is None:
        return 0.0
    said = normalise(answer)
    differ = len(set(people)) > 1
    same = [(without_punctuation(each) if differ else each) == said for each in people]
    agreeing = sum(same)
    return sum(min((agreeing - own) / _ENOUGH, 1.0) for own in same) / len(people)
