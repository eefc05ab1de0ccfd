"""VQAv2 (Goyal et al. 2017): open questions with ten human answers each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    mean_scores,
    missing_answers,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_entries,
)
from lcl_core.evaluation.benchmarks.parsing import consensus_accuracy


class VQA(Benchmark):
    """Accuracy, and by the type of answer: yes/no, number, other."""

    name = "vqav2"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From a folder with one ``*questions.json`` and one ``*annotations.json``, as they are distributed."""
        asked_file, told_file = find_one_file(path, "*questions.json"), find_one_file(path, "*annotations.json")
        if asked_file == told_file:
            raise_format_error("give the folder that holds both the questions and the annotations", path)
        told = {entry.get("question_id"): entry for entry in read_entries(told_file, "annotations")}
        questions = []
        for place, entry in enumerate(read_entries(asked_file, "questions")):
            with entry_errors(asked_file, place):
                number = entry["question_id"]
                if number not in told:
                    raise_format_error(
                        f"question {number} has no annotation; test splits are scored by their server", told_file
                    )
                questions.append(_question(entry, told[number], told_file))
        return check_unique(questions, asked_file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        samples = scores_by_group("accuracy", correct, records, "answer_type")
        return BenchmarkScores(mean_scores(samples), samples, missing_answers(records))


def _question(asked: dict[str, Any], told: dict[str, Any], told_file: Path) -> BenchmarkQuestion:
    with entry_errors(told_file, told["question_id"]):
        return BenchmarkQuestion(
            id=str(asked["question_id"]),
            image=str(asked["image_id"]),
            text=asked["question"],
            truth=tuple(str(each["answer"]) for each in told["answers"]),
            groups={"answer_type": told["answer_type"]},
        )
