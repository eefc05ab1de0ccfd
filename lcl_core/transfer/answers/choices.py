"""Scoring questions whose answer is one of a few options: which were chosen, and how many are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lcl_core.transfer.answers.letters import find_option
from lcl_core.transfer.answers.question import Answered, Scores, broken_down, means, missing


def chosen_options(records: Iterable[Answered]) -> dict[str, str | None]:
    """The letter that each answer means, by question; none: it is missing or undecided."""
    return {record.question.id: _chosen(record) for record in records}


def undecided(chosen: Mapping[str, str | None], absent: Iterable[str]) -> list[str]:
    """Questions that were answered, but by no option that could be told."""
    without = set(absent)
    return [number for number, letter in chosen.items() if letter is None and number not in without]


def choice_scores(records: Sequence[Answered], *groups: str) -> Scores:
    """Accuracy over all questions, and by each value of ``groups``."""
    chosen = chosen_options(records)
    correct = {each.question.id: float(chosen[each.question.id] == each.question.truth[0]) for each in records}
    samples = broken_down("accuracy", correct, records, *groups)
    absent = missing(records)
    return Scores(means(samples), samples, absent, undecided(chosen, absent))


def _chosen(record: Answered) -> str | None:
    return None if record.answer is None else find_option(record.answer, record.question.options)
