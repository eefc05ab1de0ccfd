"""Yes-or-no questions about images, derived from a label, answered by a model and scored by the rules of POPE.

POPE: Li et al. 2023; the prompt is LLaVA-1.5's. Derived questions cover one label: their numbers compare encoders on
one dataset, and are no results on that benchmark, for which lmms-eval runs the trained model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lcl_core.evaluation.metrics import BootstrapMetric, Ints, Numbers, Statistic, mean_of

SHORT_ANSWER_PROMPT = "\nAnswer the question using a single word or phrase."
_QUESTION = 'Is there something of the kind "{}" in the image?'
_NO_WORDS = {"No", "no", "not"}


@dataclass(frozen=True)
class LabelQuestion:
    """One question, and the model's answer once there is one.

    Attributes:
        id: unique in its file.
        image: name in the corpus.
        truth: "yes" or "no".
    """

    id: str
    image: str
    text: str
    truth: str
    answer: str = ""

    @property
    def prompt(self) -> str:
        return self.text + SHORT_ANSWER_PROMPT

    @property
    def is_right(self) -> bool:
        return parse_yes_no(self.answer) == self.truth

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def derived_questions(own: Mapping[str, str], values: Sequence[str], rng: np.random.Generator) -> list[LabelQuestion]:
    """A question with yes and one with no about each image; the wrong value is drawn from all others.

    ``own``: the value of each image.
    """
    questions = []
    for number, (image, value) in enumerate(own.items(), start=1):
        others = [other for other in values if other != value]
        for truth in ("yes", "no"):
            named = value if truth == "yes" else others[int(rng.integers(len(others)))]
            questions.append(LabelQuestion(f"{number}/{truth}", image, _QUESTION.format(named), truth))
    return questions


def parse_yes_no(answer: str) -> str:
    """Yes, unless the first sentence holds the word "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS.intersection(words) else "yes"


def answer_metrics(samples: Sequence[Mapping[str, Any]], *, baselines: bool = True) -> list[BootstrapMetric]:
    """The scores with chance and the majority: the score of one constant answer, the one that is correct most often.

    Args:
        samples: stored questions.
        baselines: compute chance and majority, too.
    """
    questions = [LabelQuestion(**sample) for sample in samples]
    metrics = _yes_no_metrics(questions)
    if not baselines:
        return metrics
    common, _ = Counter(question.truth for question in questions).most_common(1)[0]
    constant = _yes_no_metrics([replace(each, answer=common) for each in questions])
    # of random answers half are "yes", of which as many are correct as there are "yes"
    yes = sum(question.truth == "yes" for question in questions) / len(questions)
    chance = {"accuracy": 0.5, "precision": yes, "recall": 0.5, "F1": yes / (yes + 0.5), "yes-rate": 0.5}
    return [
        replace(each, chance=chance[each.metric], majority=other.value)
        for each, other in zip(metrics, constant, strict=True)
    ]


def _yes_no_metrics(questions: Sequence[LabelQuestion]) -> list[BootstrapMetric]:
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
