"""POPE (Li et al. 2023): object hallucination. Yes-no questions in three splits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    MetricContributions,
    Records,
    Samples,
    missing_answers,
)
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_json_lines,
)
from lcl_core.evaluation.metrics.core import Ints, Numbers, Statistic, safe_divide

SPLITS = ("random", "popular", "adversarial")
RATES = ("accuracy", "precision", "recall", "F1", "yes-rate")
_OPPOSITE = {"yes": "no", "no": "yes"}
_NO_WORDS = {"No", "no", "not"}


class POPE(Benchmark):
    """Accuracy, precision, recall and F1 of "yes", and the share of "yes", a split; and the mean over splits.

    A missing answer counts as the wrong one of the two.
    """

    name = "pope"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder with ``coco_pope_random.json``, ``…_popular…``, ``…_adversarial…``: a JSON object a line."""
        questions = []
        for split in SPLITS:
            file = find_one_file(path, f"*pope_{split}.json*") if path.is_dir() else path
            if f"pope_{split}" in file.name:
                questions += [_question(split, file, line, entry) for line, entry in read_json_lines(file)]
        if not questions:
            raise_format_error(f"is none of POPE's files, which are named *pope_{{{','.join(SPLITS)}}}.json", path)
        return check_unique(questions, path)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        by_split = _by_split(list(records))
        samples: Samples = {}
        for split, own in by_split.items():
            samples[f"accuracy ({split})"] = {each.question.id: float(_predicted(each) == _label(each)) for each in own}
            samples[f"yes-rate ({split})"] = {each.question.id: float(_predicted(each) == "yes") for each in own}
        metrics: dict[str, float] = {}
        for split, own in by_split.items():
            counts = np.sum([_confusion(each) for each in own], axis=0)
            metrics |= {f"{name} ({split})": float(rate(name, counts)) for name in RATES}
        for name in RATES if by_split else ():
            metrics[name] = sum(metrics[f"{name} ({split})"] for split in by_split) / len(by_split)
        return BenchmarkScores(metrics, samples, missing_answers(records))

    def chance(self, records: Records) -> dict[str, float]:
        """Half of the answers are "yes"; the share of those that are correct is the share of questions with "yes"."""
        each = {}
        for split, own in _by_split(records).items():
            yes = sum(_label(record) == "yes" for record in own) / len(own)
            each[split] = {"accuracy": 0.5, "yes-rate": 0.5, "recall": 0.5, "precision": yes, "F1": yes / (yes + 0.5)}
        overall = {name: sum(rates[name] for rates in each.values()) / len(each) for name in RATES}
        return overall | {f"{name} ({split})": value for split, rates in each.items() for name, value in rates.items()}

    def contributions(self, records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
        """Precision, recall and F1 are ratios of counts; the overall figures are means over the splits."""
        splits = list(_by_split(records))
        values = np.zeros((len(records), len(splits), 4))
        for row, record in enumerate(records):
            values[row, splits.index(record.question.groups["split"])] = _confusion(record)
        units = [record.question.id for record in records]
        flat = values.reshape(len(units), -1)
        overall = [MetricContributions(name, units, flat, _mean_rate(name, slice(None))) for name in RATES]
        return overall + [
            MetricContributions(f"{name} ({split})", units, flat, _mean_rate(name, slice(column, column + 1)))
            for column, split in enumerate(splits)
            for name in ("precision", "recall", "F1")
        ]


def rate(name: str, counts: Numbers) -> Numbers:
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


def _mean_rate(name: str, splits: slice) -> Statistic:
    """Mean over ``splits`` of a rate, from contributions [Q, splits x 4]."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        return rate(name, (counts @ distinct).reshape(len(counts), -1, 4)[:, splits]).mean(axis=1)

    return statistic


def parse_pope_answer(answer: str) -> str:
    """Yes, unless the first sentence holds the word "no" or "not"."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO_WORDS.intersection(words) else "yes"


def _by_split(records: Records) -> dict[str, list[AnsweredQuestion]]:
    by_split = {split: [each for each in records if each.question.groups["split"] == split] for split in SPLITS}
    return {split: own for split, own in by_split.items() if own}


def _confusion(record: AnsweredQuestion) -> Numbers:
    """[4] one-hot: false "no", true "no", false "yes", true "yes"."""
    predicted = _predicted(record)
    return np.eye(4)[2 * (predicted == "yes") + (predicted == _label(record))]


def _label(record: AnsweredQuestion) -> str:
    return record.question.truth[0]


def _predicted(record: AnsweredQuestion) -> str:
    return _OPPOSITE[_label(record)] if record.answer is None else parse_pope_answer(record.answer)


def _question(split: str, file: Path, line: int, entry: dict[str, Any]) -> BenchmarkQuestion:
    with entry_errors(file, line, line):
        label = entry["label"].strip().lower()
        if label not in _OPPOSITE:
            raise_format_error(f'the label is "{label}", neither yes nor no', file, line)
        return BenchmarkQuestion(
            id=f"{split}/{entry['question_id']}",
            image=entry["image"],
            text=entry["text"],
            truth=(label,),
            groups={"split": split},
        )
