"""VQAv2 (Goyal et al. 2017): open questions with ten human answers each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    scores_by_group,
)
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_entries,
)
from lcl_core.evaluation.benchmarks.vqa_consensus import consensus_accuracy

_COCO_SPLITS = ("val2014", "train2014", "test2015")


class VQA(Benchmark):
    """Accuracy, and by the type of answer: yes/no, number, other."""

    name = "vqav2"

    def load(self, path: Path) -> list[BenchmarkQuestion]:
        """From a folder with one ``*questions.json`` and one ``*annotations.json``, as they are distributed."""
        questions_file, annotations_file = (
            find_one_file(path, f"*{name}.json") for name in ("questions", "annotations")
        )
        if questions_file == annotations_file:
            raise_format_error("give the folder that holds both the questions and the annotations", path)
        annotations = {entry.get("question_id"): entry for entry in read_entries(annotations_file, "annotations")}
        questions = []
        for position, entry in enumerate(read_entries(questions_file, "questions")):
            with entry_errors(questions_file, position):
                number, image, text = entry["question_id"], entry["image_id"], entry["question"]
            if number not in annotations:
                raise_format_error(
                    f"question {number} has no annotation; test splits are scored by their server", annotations_file
                )
            with entry_errors(annotations_file, number):
                annotation = annotations[number]
                truth = tuple(str(each["answer"]) for each in annotation["answers"])
                groups = {"answer_type": annotation["answer_type"]}
                questions.append(BenchmarkQuestion(str(number), str(image), text, truth, groups=groups))
        return check_unique(questions, questions_file)

    def score(self, records: Iterable[AnsweredQuestion]) -> BenchmarkScores:
        records = list(records)
        correct = {record.question.id: consensus_accuracy(record.answer, record.question.truth) for record in records}
        return BenchmarkScores.of_means(scores_by_group("accuracy", correct, records, "answer_type"), records)

    def image_names(self, question: BenchmarkQuestion) -> list[str]:
        number = f"{int(question.image):012d}.jpg"
        return [*(f"COCO_{split}_{number}" for split in _COCO_SPLITS), number]
