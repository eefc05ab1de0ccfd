"""Yes-no questions: MME (Fu et al. 2023), fourteen subtasks with two questions an image, and POPE (Li et al. 2023),
object hallucination in three splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.evaluation.benchmarks.base import (
    SHORT_ANSWER_PROMPT,
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    MetricContributions,
    Records,
    Samples,
    mean_scores,
    missing_answers,
)
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_json_lines,
    read_text,
)
from lcl_core.evaluation.metrics.core import Ints, Numbers, Statistic, safe_divide

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
AREAS = {"perception": PERCEPTION, "cognition": COGNITION}
SUBTASKS = (*PERCEPTION, *COGNITION)
_MAX_POINTS = 100.0
_CHANCE = {"acc": 0.5, "acc+": 0.25, "score": 75.0}  # one of two, both of two, 100 (acc + acc+)
_YES_NO_PROMPT = " Please answer yes or no."


class MME(Benchmark):
    """``acc`` and ``acc+`` (both questions of an image correct) a subtask; scores are 100 (acc + acc+), summed."""

    name = "mme"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder with a ``<subtask>.txt`` each: image, question, yes or no, between tabs."""
        files = [path / f"{subtask}.txt" for subtask in SUBTASKS]
        files = [file for file in files if file.is_file()]
        if not files:
            raise_format_error("expected text files named after the subtasks here: existence.txt, count.txt …", path)
        return check_unique([question for file in files for question in _read_subtask(file)], path)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        samples: Samples = {}
        for subtask in SUBTASKS:
            own = [record for record in records if record.question.groups["subtask"] == subtask]
            if own:
                samples |= {f"acc ({subtask})": _correct(own), f"acc+ ({subtask})": _both_correct(own)}
        metrics = mean_scores(samples)
        for area, subtasks in AREAS.items():
            scores = {
                f"score ({subtask})": _MAX_POINTS * (metrics[f"acc ({subtask})"] + metrics[f"acc+ ({subtask})"])
                for subtask in subtasks
                if f"acc ({subtask})" in metrics
            }
            metrics |= {**scores, area: sum(scores.values(), 0.0)}
        return BenchmarkScores(metrics, samples, missing_answers(records))

    def prompt(self, question: BenchmarkQuestion) -> str:
        """The files ask for yes or no in the question; the published prompt replaces that sentence."""
        return question.text.replace(_YES_NO_PROMPT, "").strip() + SHORT_ANSWER_PROMPT

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        subtask, name = question.image.split("/", 1)
        return [question.image, f"{subtask}/images/{name}"]

    def chance(self, records: Records) -> dict[str, float]:
        subtasks = {record.question.groups["subtask"] for record in records}
        each = {f"{metric} ({name})": value for name in subtasks for metric, value in _CHANCE.items()}
        return each | {area: _CHANCE["score"] * len(subtasks & set(names)) for area, names in AREAS.items()}

    def contributions(self, records: Records, scores: BenchmarkScores) -> list[MetricContributions]:
        """100 (acc + acc+) of each subtask, and their sums over perception and cognition; the units are images.

        All subtasks have columns, absent ones zeros, so that the columns of two runs mean the same.
        """
        subtask_of = {record.question.image: record.question.groups["subtask"] for record in records}
        images = list(subtask_of)
        row_of = {image: row for row, image in enumerate(images)}
        values = np.zeros((len(images), len(SUBTASKS), 2))  # points and images of each subtask
        for record in records:
            name, image = record.question.groups["subtask"], record.question.image
            points = scores.samples[f"acc ({name})"][record.question.id] + scores.samples[f"acc+ ({name})"][image]
            values[row_of[image], SUBTASKS.index(name)] += (_MAX_POINTS / 2 * points, 0.5)  # two questions an image
        flat = values.reshape(len(images), -1)
        sums = {area: [SUBTASKS.index(name) for name in names] for area, names in AREAS.items()}
        sums |= {f"score ({name})": [SUBTASKS.index(name)] for name in dict.fromkeys(subtask_of.values())}
        return [MetricContributions(metric, images, flat, _total_points(columns)) for metric, columns in sums.items()]


def _total_points(subtasks: list[int]) -> Statistic:
    """Sum over ``subtasks`` of the mean points of their images."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        points, images = np.moveaxis((counts @ distinct).reshape(len(counts), len(SUBTASKS), 2), -1, 0)
        return safe_divide(points, images)[:, subtasks].sum(axis=1)

    return statistic


def parse_mme_answer(answer: str) -> str:
    """The one of "yes" and "no" that stands in the first four letters, else "other"."""
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def _correct(records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    return {each.question.id: float(parse_mme_answer(each.answer or "") == each.question.truth[0]) for each in records}


def _both_correct(records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """By image."""
    correct = _correct(records)
    images: dict[str, float] = {}
    for record in records:
        image = record.question.image
        images[image] = min(images.get(image, 1.0), correct[record.question.id])
    return images


def _read_subtask(file: Path) -> list[BenchmarkQuestion]:
    questions, counts = [], dict[str, int]()
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 3 or fields[2].strip().lower() not in ("yes", "no"):
            raise_format_error("expected image, question, Yes or No, between tabs", file, number)
        image = f"{file.stem}/{fields[0]}"
        counts[image] = counts.get(image, 0) + 1
        questions.append(
            BenchmarkQuestion(
                id=f"{image}#{counts[image]}",
                image=image,
                text=fields[1],
                truth=(fields[2].strip().lower(),),
                groups={"subtask": file.stem},
            )
        )
    odd = next((image for image, times in counts.items() if times != 2), None)
    if odd is not None:
        raise_format_error(f"{odd} has {counts[odd]} questions; acc+ needs two of every image", file)
    return questions


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
        """Precision, recall and F1 are ratios of counts; the overall figures are means over the splits.

        All splits have columns, absent ones zeros, so that the columns of two runs mean the same.
        """
        values = np.zeros((len(records), len(SPLITS), 4))
        for row, record in enumerate(records):
            values[row, SPLITS.index(record.question.groups["split"])] = _confusion(record)
        units = [record.question.id for record in records]
        flat = values.reshape(len(units), -1)
        overall = [MetricContributions(name, units, flat, _mean_rate(name, SPLITS)) for name in RATES]
        return overall + [
            MetricContributions(f"{name} ({split})", units, flat, _mean_rate(name, (split,)))
            for split in _by_split(records)
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


def _mean_rate(name: str, splits: Sequence[str]) -> Statistic:
    """Mean of a rate over those of ``splits`` that have questions, from contributions [Q, SPLITS x 4]; 0 for none."""
    columns = [SPLITS.index(split) for split in splits]

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        present = distinct.reshape(len(distinct), len(SPLITS), 4)[:, columns].any(axis=(0, 2))
        rates = rate(name, (counts @ distinct).reshape(len(counts), len(SPLITS), 4)[:, columns])
        return rates[:, present].sum(axis=1) / max(1, np.count_nonzero(present))

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
