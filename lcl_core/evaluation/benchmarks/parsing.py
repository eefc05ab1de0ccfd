"""Parsers of free answers: VQA normalisation and consensus, option letters, yes or no.

VQA: the published rule (visualqa.org/evaluation.html) and its program. Letters: VLMEvalKit's offline matcher and the
forms of ScienceQA's evaluation; an answer that names no single option stays undecided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    BenchmarkScores,
    mean_scores,
    missing_answers,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.vqa_normalization import normalize_answer, without_punctuation

_FULL_CONSENSUS = 3


def consensus_accuracy(answer: str | None, people: Sequence[str]) -> float:
    """min(same answers / 3, 1), averaged over the subsets that leave one person out.

    As in the official program, people's answers lose their punctuation only where they differ, and are
    otherwise taken as published.
    """
    if answer is None:
        return 0.0
    said = normalize_answer(answer)
    differ = len(set(people)) > 1
    same = [(without_punctuation(each) if differ else each) == said for each in people]
    agreeing = sum(same)
    return sum(min((agreeing - own) / _FULL_CONSENSUS, 1.0) for own in same) / len(people)


_LETTER_DELIMITERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# Longer answers may begin with the article "A"; a letter among them proves nothing.
_MAX_WORDS_WITH_A = 3
_LEADING = re.compile(r"\W*([A-Z])[.):\]](?!\w)")
_NAMED = re.compile(r"(?i:answer|option|choice)(?:\s+is)?\s*[:\s]\s*[(\[*]*([A-Z])(?=[.,:;)\]*]|\s*$)")


def parse_option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that ``answer`` means; none where it names no or several."""
    for rule in (_lone_letter, _leading_letter, _named_letter, _quoted_text):
        letter = rule(answer, options)
        if letter is not None:
            return letter
    return None


def _lone_letter(answer: str, options: Mapping[str, str]) -> str | None:
    words = answer.translate(_LETTER_DELIMITERS).split()
    found = [letter for letter in options if letter in words]
    if len(found) != 1 or (found == ["A"] and len(words) > _MAX_WORDS_WITH_A):
        return None
    return found[0]


def _leading_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of an answer such as "A. A dog on a mat"."""
    found = _LEADING.match(answer)
    return found[1] if found and found[1] in options else None


def _named_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of "The answer is B." or "option: (C)", if one letter alone is so named."""
    found = {letter for letter in _NAMED.findall(answer) if letter in options}
    return found.pop() if len(found) == 1 else None


def _quoted_text(answer: str, options: Mapping[str, str]) -> str | None:
    lower = answer.lower()
    found = [letter for letter, text in options.items() if text.strip() and text.strip().lower() in lower]
    return found[0] if len(found) == 1 else None


_NO_WORDS = {"No", "no", "not"}


def parse_pope_answer(answer: str) -> str:
    """Yes, unless the first sentence holds the word "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS.intersection(words) else "yes"


def parse_mme_answer(answer: str) -> str:
    """The one of "yes" and "no" that stands in the first four letters, else "other"."""
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def parse_options(records: Iterable[AnsweredQuestion]) -> dict[str, str | None]:
    """The letter that each answer means, by question; none: it is missing or undecided."""
    return {record.question.id: _parse_option(record) for record in records}


def undecided_ids(chosen: Mapping[str, str | None], absent: Iterable[str]) -> list[str]:
    """Questions that were answered, but by no option that could be told."""
    without = set(absent)
    return [number for number, letter in chosen.items() if letter is None and number not in without]


def score_choices(records: Sequence[AnsweredQuestion], *groups: str) -> BenchmarkScores:
    """Accuracy over all questions, and by each value of ``groups``."""
    chosen = parse_options(records)
    correct = {each.question.id: float(chosen[each.question.id] == each.question.truth[0]) for each in records}
    samples = scores_by_group("accuracy", correct, records, *groups)
    absent = missing_answers(records)
    return BenchmarkScores(mean_scores(samples), samples, absent, undecided_ids(chosen, absent))


def _parse_option(record: AnsweredQuestion) -> str | None:
    return None if record.answer is None else parse_option_letter(record.answer, record.question.options)
