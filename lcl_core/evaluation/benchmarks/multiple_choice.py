"""Multiple choice: the option that a free answer names, accuracy, chance.

Letters are parsed by the rule of VLMEvalKit's offline matcher (a letter that stands alone, then the text of an option)
and the forms of ScienceQA's evaluation ("A. …", "the answer is A"). An answer that names no single option is undecided.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lcl_core.evaluation.benchmarks.base import (
    LETTER_PROMPT,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    Records,
    mean_scores,
    missing_answers,
    scores_by_group,
)

_LETTER_DELIMITERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MAX_WORDS_WITH_A = 3  # a longer answer may begin with the article "A"
_LEADING = re.compile(r"\W*([A-Z])[.):\]](?!\w)")
_NAMED = re.compile(r"(?i:answer|option|choice)(?:\s+is)?\s*[:\s]\s*[(\[*]*([A-Z])(?=[.,:;)\]*]|\s*$)")


class MultipleChoice(Benchmark):
    """A benchmark whose answers are letters of options."""

    def prompt(self, question: BenchmarkQuestion) -> str:
        options = "".join(f"\n{letter}. {text}" for letter, text in question.options.items())
        return question.text + options + LETTER_PROMPT

    def chance(self, records: Records) -> dict[str, float]:
        return chance_by_group({record.question.id: 1 / len(record.question.options) for record in records}, records)


def chance_by_group(chance: Mapping[str, float], records: Records) -> dict[str, float]:
    """Mean ``chance`` of all questions and of each value of every group."""
    groups = dict.fromkeys(group for record in records for group in record.question.groups)
    return mean_scores(scores_by_group("accuracy", chance, records, *groups))


def score_choices(records: Records, *groups: str) -> BenchmarkScores:
    """Accuracy over all questions, and by each value of ``groups``."""
    chosen = parse_options(records)
    correct = {each.question.id: float(chosen[each.question.id] == each.question.truth[0]) for each in records}
    samples = scores_by_group("accuracy", correct, records, *groups)
    return BenchmarkScores(mean_scores(samples), samples, missing_answers(records), undecided_ids(chosen, records))


def parse_options(records: Records) -> dict[str, str | None]:
    """The letter that each answer names, by question id; None where it is missing or undecided."""
    return {
        each.question.id: None if each.answer is None else parse_option_letter(each.answer, each.question.options)
        for each in records
    }


def undecided_ids(chosen: Mapping[str, str | None], records: Records) -> list[str]:
    """Ids of the questions whose answer names no single option."""
    return [each.question.id for each in records if each.answer is not None and chosen[each.question.id] is None]


def parse_option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that ``answer`` names; None where it names none or several."""
    for rule in (_lone_letter, _leading_letter, _named_letter, _quoted_text):
        letter = rule(answer, options)
        if letter is not None:
            return letter
    return None


def _lone_letter(answer: str, options: Mapping[str, str]) -> str | None:
    words = answer.translate(_LETTER_DELIMITERS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) != 1 or (letters == ["A"] and len(words) > _MAX_WORDS_WITH_A):
        return None
    return letters[0]


def _leading_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of an answer such as "A. A dog on a mat"."""
    match = _LEADING.match(answer)
    return match[1] if match and match[1] in options else None


def _named_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Of "The answer is B." or "option: (C)", if it names one letter alone."""
    letters = {letter for letter in _NAMED.findall(answer) if letter in options}
    return letters.pop() if len(letters) == 1 else None


def _quoted_text(answer: str, options: Mapping[str, str]) -> str | None:
    lower = answer.lower()
    letters = [letter for letter, text in options.items() if text.strip() and text.strip().lower() in lower]
    return letters[0] if len(letters) == 1 else None
