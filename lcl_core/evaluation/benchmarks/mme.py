"""MME (Fu et al. 2023): fourteen subtasks of yes-no questions, two an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

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
from lcl_core.evaluation.benchmarks.io import check_unique, raise_format_error, read_text
from lcl_core.evaluation.metrics.core import Ints, Numbers, Statistic, safe_divide

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
AREAS = {"perception": PERCEPTION, "cognition": COGNITION}
_MAX_POINTS = 100.0
_CHANCE = {"acc": 0.5, "acc+": 0.25, "score": 75.0}  # one of two, both of two, 100 (acc + acc+)
_YES_NO_PROMPT = " Please answer yes or no."


class MME(Benchmark):
    """``acc`` and ``acc+`` (both questions of an image correct) a subtask; scores are 100 (acc + acc+), summed."""

    name = "mme"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder with a ``<subtask>.txt`` each: image, question, yes or no, between tabs."""
        files = [path / f"{subtask}.txt" for subtask in (*PERCEPTION, *COGNITION)]
        files = [file for file in files if file.is_file()]
        if not files:
            raise_format_error("expected text files named after the subtasks here: existence.txt, count.txt …", path)
        return check_unique([question for file in files for question in _read_subtask(file)], path)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        samples: Samples = {}
        for subtask in (*PERCEPTION, *COGNITION):
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
        """100 (acc + acc+) of each subtask, and their sums over perception and cognition; the units are images."""
        subtask_of = {record.question.image: record.question.groups["subtask"] for record in records}
        subtasks, images = list(dict.fromkeys(subtask_of.values())), list(subtask_of)
        row_of = {image: row for row, image in enumerate(images)}
        values = np.zeros((len(images), len(subtasks), 2))  # points and images of each subtask
        for record in records:
            name, image = record.question.groups["subtask"], record.question.image
            points = scores.samples[f"acc ({name})"][record.question.id] + scores.samples[f"acc+ ({name})"][image]
            values[row_of[image], subtasks.index(name)] += (_MAX_POINTS / 2 * points, 0.5)  # two questions an image
        flat = values.reshape(len(images), -1)
        sums = {area: [subtasks.index(name) for name in names if name in subtasks] for area, names in AREAS.items()}
        sums |= {f"score ({name})": [column] for column, name in enumerate(subtasks)}
        return [MetricContributions(metric, images, flat, _total_points(columns)) for metric, columns in sums.items()]


def _total_points(subtasks: list[int]) -> Statistic:
    """Sum over ``subtasks`` of the mean points of their images."""

    def statistic(distinct: Numbers, counts: Ints) -> Numbers:
        points, images = np.moveaxis((counts @ distinct).reshape(len(counts), -1, 2), -1, 0)
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
    for number, line in enumerate(read_text(file).splitlines(), start=1):
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
