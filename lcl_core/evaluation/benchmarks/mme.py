"""MME (Fu et al. 2023): fourteen subtasks of yes-no questions, two a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    mean_scores,
    missing_answers,
)
from lcl_core.evaluation.benchmarks.io import check_unique, raise_format_error, read_text
from lcl_core.evaluation.benchmarks.parsing import parse_mme_answer

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
AREAS = {"perception": PERCEPTION, "cognition": COGNITION}
_MAX_POINTS = 100.0


class MME(Benchmark):
    """``acc`` and ``acc+`` (both questions of a picture right) a subtask; scores are 100 (acc + acc+), summed."""

    name = "mme"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From the folder with a ``<subtask>.txt`` each: picture, question, yes or no, between tabs."""
        files = [path / f"{subtask}.txt" for subtask in (*PERCEPTION, *COGNITION)]
        files = [file for file in files if file.is_file()]
        if not files:
            raise_format_error("expected text files named after the subtasks here: existence.txt, count.txt …", path)
        return check_unique([question for file in files for question in _read_subtask(file)], path)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        samples: dict[str, dict[str, float]] = {}
        metrics: dict[str, float] = {}
        for subtask in (*PERCEPTION, *COGNITION):
            here = [record for record in records if record.question.groups["subtask"] == subtask]
            if here:
                samples |= {f"acc ({subtask})": _correct(here), f"acc+ ({subtask})": _both_correct(here)}
        metrics |= mean_scores(samples)
        for area, subtasks in AREAS.items():
            for subtask in subtasks:
                if f"acc ({subtask})" in metrics:
                    metrics[f"score ({subtask})"] = _MAX_POINTS * (
                        metrics[f"acc ({subtask})"] + metrics[f"acc+ ({subtask})"]
                    )
            metrics[area] = sum(metrics.get(f"score ({subtask})", 0.0) for subtask in subtasks)
        return BenchmarkScores(metrics, samples, missing_answers(records))


def _correct(records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    return {
        record.question.id: float(
            record.answer is not None and parse_mme_answer(record.answer) == record.question.truth[0]
        )
        for record in records
    }


def _both_correct(records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """By picture."""
    correct = _correct(records)
    pictures: dict[str, float] = {}
    for record in records:
        image = record.question.image
        pictures[image] = min(pictures.get(image, 1.0), correct[record.question.id])
    return pictures


def _read_subtask(file: Path) -> list[BenchmarkQuestion]:
    questions, asked = [], dict[str, int]()
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 3 or fields[2].strip().lower() not in ("yes", "no"):
            raise_format_error("expected picture, question, Yes or No, between tabs", file, number)
        image = f"{file.stem}/{fields[0]}"
        asked[image] = asked.get(image, 0) + 1
        questions.append(
            BenchmarkQuestion(
                id=f"{image}#{asked[image]}",
                image=image,
                text=fields[1],
                truth=(fields[2].strip().lower(),),
                groups={"subtask": file.stem},
            )
        )
    odd = next((image for image, times in asked.items() if times != 2), None)
    if odd is not None:
        raise_format_error(f"{odd} has {asked[odd]} questions; acc+ needs two of every picture", file)
    return questions
