"""Questions about images and the scores of stored answers, by the rules of two published benchmarks.

``pope``: yes or no (POPE, Li et al. 2023), in three splits by how the wrong objects were drawn. ``seed-bench``: one of
up to four options (SEED-Bench, Li et al. 2023); letters are parsed by the rule of VLMEvalKit's offline matcher and the
forms of ScienceQA's evaluation ("A. …", "the answer is A"), and an answer that names no single option is wrong. The
prompts are those of LLaVA-1.5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.evaluation.metrics.core import BootstrapMetric, Ints, Numbers, Statistic, mean_of, safe_divide

POPE, SEED_BENCH = "pope", "seed-bench"
POPE_SPLITS = ("random", "popular", "adversarial")
RATES = ("accuracy", "precision", "recall", "F1", "yes-rate")
SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
LETTER_PROMPT = "\nAnswer with the option's letter from the given choices directly."
_NO_WORDS = {"No", "no", "not"}
_LETTER_DELIMITERS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MAX_WORDS_WITH_A = 3  # a longer answer may begin with the article "A"
_LEADING = re.compile(r"\W*([A-Z])[.):\]](?!\w)")
_NAMED = re.compile(r"(?i:answer|option|choice)(?:\s+is)?\s*[:\s]\s*[(\[*]*([A-Z])(?=[.,:;)\]*]|\s*$)")


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question, and the model's answer once there is one.

    Attributes:
        id: unique in its file.
        image: name in the corpus.
        truth: "yes" or "no", or the letter of the correct option.
        options: letter to text; empty: a question with yes or no.
        split: one of ``POPE_SPLITS``, of a question with yes or no.
    """

    id: str
    image: str
    text: str
    truth: str
    options: dict[str, str] = field(default_factory=dict)
    split: str = ""
    answer: str = ""

    @property
    def prompt(self) -> str:
        if not self.options:
            return self.text + SHORT_ANSWER_PROMPT
        return self.text + "".join(f"\n{letter}. {text}" for letter, text in self.options.items()) + LETTER_PROMPT

    @property
    def is_right(self) -> bool:
        parsed = parse_option_letter(self.answer, self.options) if self.options else parse_yes_no(self.answer)
        return parsed == self.truth

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_answers(samples: Sequence[Mapping[str, Any]]) -> list[BenchmarkQuestion]:
    """Stored questions."""
    try:
        return [BenchmarkQuestion(**sample) for sample in samples]
    except TypeError as error:
        raise UserError(
            f"a stored answer is not as it was written ({error}); evaluate again", code="records_unreadable"
        ) from None


def parse_yes_no(answer: str) -> str:
    """Yes, unless the first sentence holds the word "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS.intersection(words) else "yes"


def parse_option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that ``answer`` names; None where it names none or several."""
    words = answer.translate(_LETTER_DELIMITERS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and not (letters == ["A"] and len(words) > _MAX_WORDS_WITH_A):
        return letters[0]
    leading = _LEADING.match(answer)  # "A. A dog on a mat"
    if leading and leading[1] in options:
        return leading[1]
    named = {letter for letter in _NAMED.findall(answer) if letter in options}  # "The answer is B." "option: (C)"
    if len(named) == 1:
        return named.pop()
    lower = answer.lower()
    quoted = [letter for letter, text in options.items() if text.strip() and text.strip().lower() in lower]
    return quoted[0] if len(quoted) == 1 else None


def answer_metrics(
    facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], only: Collection[str] | None = None
) -> list[BootstrapMetric]:
    """The scores with chance and the majority: the score of one constant answer, the one that is correct most often.

    Args:
        facts: of the prediction file; ``benchmark`` is ``pope`` or ``seed-bench``.
        samples: stored questions.
        only: names of the wanted metrics; chance and majority are not computed then.
    """
    score, chance = {POPE: (_pope_metrics, _pope_chance), SEED_BENCH: (_choice_metrics, _choice_chance)}[
        facts["benchmark"]
    ]
    questions = read_answers(samples)
    metrics = score(questions)
    if only is not None:
        return metrics
    common, _ = Counter(question.truth for question in questions).most_common(1)[0]
    majority = {each.metric: each.value for each in score([replace(each, answer=common) for each in questions])}
    expected = chance(questions)
    return [replace(each, chance=expected.get(each.metric), majority=majority[each.metric]) for each in metrics]


def _choice_metrics(questions: Sequence[BenchmarkQuestion]) -> list[BootstrapMetric]:
    correct = np.array([question.is_right for question in questions])
    return [BootstrapMetric("accuracy", [question.id for question in questions], correct, mean_of)]


def _choice_chance(questions: Sequence[BenchmarkQuestion]) -> dict[str, float]:
    return {"accuracy": sum(1 / len(question.options) for question in questions) / len(questions)}


def _pope_metrics(questions: Sequence[BenchmarkQuestion]) -> list[BootstrapMetric]:
    """The rates of each split, and their means over the splits.

    All splits have columns, absent ones zeros, so that the columns of two runs mean the same.
    """
    values = np.zeros((len(questions), len(POPE_SPLITS), 4))
    for row, question in enumerate(questions):
        said_yes = parse_yes_no(question.answer) == "yes"
        column = 2 * said_yes + question.is_right  # false "no", true "no", false "yes", true "yes"
        values[row, POPE_SPLITS.index(question.split), column] = 1
    units, flat = [question.id for question in questions], values.reshape(len(questions), -1)
    present = [split for split in POPE_SPLITS if any(question.split == split for question in questions)]
    metrics = [BootstrapMetric(name, units, flat, _mean_rate(name, POPE_SPLITS)) for name in RATES]
    for split in present:
        metrics += [
            BootstrapMetric(f"{name} ({split})", units, flat, _mean_rate(name, (split,)))
            for name in ("precision", "recall", "F1")
        ]
    for split in present:
        own = [question for question in questions if question.split == split]
        for name, shares in (
            ("accuracy", [question.is_right for question in own]),
            ("yes-rate", [parse_yes_no(question.answer) == "yes" for question in own]),
        ):
            metrics.append(
                BootstrapMetric(f"{name} ({split})", [question.id for question in own], np.array(shares), mean_of)
            )
    return metrics


def _pope_chance(questions: Sequence[BenchmarkQuestion]) -> dict[str, float]:
    """Half of the answers are "yes"; the share of those that are correct is the share of questions with "yes"."""
    each = {}
    for split in dict.fromkeys(question.split for question in questions):
        truths = [question.truth == "yes" for question in questions if question.split == split]
        yes = sum(truths) / len(truths)
        each[split] = {"accuracy": 0.5, "yes-rate": 0.5, "recall": 0.5, "precision": yes, "F1": yes / (yes + 0.5)}
    overall = {name: sum(rates[name] for rates in each.values()) / len(each) for name in RATES}
    return overall | {f"{name} ({split})": value for split, rates in each.items() for name, value in rates.items()}


def _rate(name: str, counts: Numbers) -> Numbers:
    """A rate of "yes" from counts [..., 4] of false "no", true "no", false "yes", true "yes"."""
    false_no, true_no, false_yes, true_yes = np.moveaxis(counts, -1, 0)
    above, below = {
        "accuracy": (true_no + true_yes, counts.sum(axis=-1)),
        "precision": (true_yes, true_yes + false_yes),
        "recall": (true_yes, true_yes + false_no),
        "F1": (2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes-rate": (true_yes + false_yes, counts.sum(axis=-1)),
    }[name]
    return safe_divide(above, below)


def _mean_rate(name: str, splits: Sequence[str]) -> Statistic:
    """Mean of a rate over those of ``splits`` that have questions, from contributions [Q, POPE_SPLITS x 4]."""
    columns = [POPE_SPLITS.index(split) for split in splits]

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        present = distinct.reshape(len(distinct), len(POPE_SPLITS), 4)[:, columns].any(axis=(0, 2))
        rates = _rate(name, (counts @ distinct).reshape(len(counts), len(POPE_SPLITS), 4)[:, columns])
        return rates[:, present].sum(axis=1) / max(1, np.count_nonzero(present))

    return statistic
