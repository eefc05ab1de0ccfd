"""Questions about images: derived from a label, answered by a model, and scored by the rules of two benchmarks.

``pope``: yes or no (POPE, Li et al. 2023). ``seed-bench``: one of up to four options (SEED-Bench, Li et al. 2023);
letters are parsed by the rule of VLMEvalKit's offline matcher and the forms of ScienceQA's evaluation ("A. …", "the
answer is A"), and an answer that names no single option is wrong. The prompts are those of LLaVA-1.5.

Derived questions cover one label: their numbers compare encoders on one dataset, and are no results on those
benchmarks, for which lmms-eval runs the trained model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lcl_core.evaluation.metrics import BootstrapMetric, Ints, Numbers, Statistic, mean_of

POPE, SEED_BENCH = "pope", "seed-bench"
SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
LETTER_PROMPT = "\nAnswer with the option's letter from the given choices directly."
_YES_NO_QUESTION = 'Is there something of the kind "{}" in the image?'
_CHOICE_QUESTION = "What kind of thing does the image show?"
_LETTERS = "ABCD"
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
    """

    id: str
    image: str
    text: str
    truth: str
    options: dict[str, str] = field(default_factory=dict)
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


# ---- derived questions


def yes_no_question(own: str, values: Sequence[str], truth: str, rng: np.random.Generator) -> str:
    """A question about an image of the value ``own``: for ``truth`` "no" about another of ``values``."""
    others = [value for value in values if value != own]
    return _YES_NO_QUESTION.format(own if truth == "yes" else others[int(rng.integers(len(others)))])


def choice_question(
    name: str, image: str, own: str, values: Sequence[str], rng: np.random.Generator
) -> BenchmarkQuestion:
    """Four of ``values`` to choose from, the image's ``own`` among them; fewer where there are fewer."""
    others = [value for value in values if value != own]
    wrong = rng.choice(len(others), min(len(_LETTERS) - 1, len(others)), replace=False)
    options = [own, *(others[number] for number in wrong)]
    shuffled = [options[number] for number in rng.permutation(len(options))]
    lettered = dict(zip(_LETTERS, shuffled, strict=False))
    return BenchmarkQuestion(name, image, _CHOICE_QUESTION, _LETTERS[shuffled.index(own)], lettered)


def derived_questions(own: Mapping[str, str], values: Sequence[str], seed: int) -> dict[str, list[BenchmarkQuestion]]:
    """By benchmark: a question with yes and one with no about each image, and one choice.

    ``own``: the value of each image.
    """
    rng = np.random.default_rng([seed, 2])
    pope = [
        BenchmarkQuestion(f"{number}/{truth}", image, yes_no_question(value, values, truth, rng), truth)
        for number, (image, value) in enumerate(own.items(), start=1)
        for truth in ("yes", "no")
    ]
    rng = np.random.default_rng([seed, 3])
    choices = [
        choice_question(str(number), image, value, values, rng)
        for number, (image, value) in enumerate(own.items(), start=1)
    ]
    return {POPE: pope, SEED_BENCH: choices}


# ---- answers and scores


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
    facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], *, baselines: bool = True
) -> list[BootstrapMetric]:
    """The scores with chance and the majority: the score of one constant answer, the one that is correct most often.

    Args:
        facts: of the prediction file; ``benchmark`` is ``pope`` or ``seed-bench``.
        samples: stored questions.
        baselines: compute chance and majority, too.
    """
    score = _yes_no_metrics if facts["benchmark"] == POPE else _choice_metrics
    questions = [BenchmarkQuestion(**sample) for sample in samples]
    metrics = score(questions)
    if not baselines:
        return metrics
    common, _ = Counter(question.truth for question in questions).most_common(1)[0]
    constant = score([replace(each, answer=common) for each in questions])
    if facts["benchmark"] == POPE:  # half of the answers are "yes", of which as many are correct as there are "yes"
        yes = sum(question.truth == "yes" for question in questions) / len(questions)
        chance = {"accuracy": 0.5, "precision": yes, "recall": 0.5, "F1": yes / (yes + 0.5), "yes-rate": 0.5}
    else:
        chance = {"accuracy": sum(1 / len(question.options) for question in questions) / len(questions)}
    return [
        replace(each, chance=chance[each.metric], majority=other.value)
        for each, other in zip(metrics, constant, strict=True)
    ]


def _choice_metrics(questions: Sequence[BenchmarkQuestion]) -> list[BootstrapMetric]:
    correct = np.array([question.is_right for question in questions])
    return [BootstrapMetric("accuracy", [question.id for question in questions], correct, mean_of)]


def _yes_no_metrics(questions: Sequence[BenchmarkQuestion]) -> list[BootstrapMetric]:
    said_yes = np.array([parse_yes_no(question.answer) == "yes" for question in questions])
    correct = np.array([question.is_right for question in questions])
    counts = np.eye(4)[2 * said_yes + correct]  # false "no", true "no", false "yes", true "yes"
    units = [question.id for question in questions]
    rates = [BootstrapMetric(name, units, counts, _rate(name)) for name in ("precision", "recall", "F1")]
    return [
        BootstrapMetric("accuracy", units, correct, mean_of),
        *rates,
        BootstrapMetric("yes-rate", units, said_yes, mean_of),
    ]


def _rate(name: str) -> Statistic:
    """A rate of "yes" from counts of false "no", true "no", false "yes", true "yes"; 0 where it has no divisor."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        false_no, _, false_yes, true_yes = (counts @ distinct).T
        below = {"precision": true_yes + false_yes, "recall": true_yes + false_no}
        below["F1"] = (below["precision"] + below["recall"]) / 2
        return np.divide(true_yes, below[name], out=np.zeros(len(counts)), where=below[name] != 0)

    return statistic
