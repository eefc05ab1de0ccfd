"""POPE (Li et al. 2023): does a model see objects that are not there? Yes-no questions in three splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lcl_core.evaluation.benchmarks.base import (
    AnsweredQuestion,
    Benchmark,
    BenchmarkQuestion,
    BenchmarkScores,
    missing_answers,
)
from lcl_core.evaluation.benchmarks.io import (
    check_unique,
    entry_errors,
    find_one_file,
    raise_format_error,
    read_json_lines,
)
from lcl_core.evaluation.benchmarks.parsing import parse_pope_answer

SPLITS = ("random", "popular", "adversarial")
_OPPOSITE = {"yes": "no", "no": "yes"}


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
        records = list(records)
        metrics: dict[str, float] = {}
        samples: dict[str, dict[str, float]] = {}
        splits = [name for name in SPLITS if any(each.question.groups["split"] == name for each in records)]
        for split in splits:
            here = [record for record in records if record.question.groups["split"] == split]
            for name, value in _metrics(here).items():
                metrics[f"{name} ({split})"] = value
            samples[f"accuracy ({split})"] = {
                each.question.id: float(_predicted(each) == _label(each)) for each in here
            }
            samples[f"yes-rate ({split})"] = {each.question.id: float(_predicted(each) == "yes") for each in here}
        for name in ("accuracy", "precision", "recall", "F1", "yes-rate") if splits else ():
            metrics[name] = sum(metrics[f"{name} ({split})"] for split in splits) / len(splits)
        return BenchmarkScores(metrics, samples, missing_answers(records))


def _metrics(records: Sequence[AnsweredQuestion]) -> dict[str, float]:
    pairs = [(_predicted(record), _label(record)) for record in records]
    hits = pairs.count(("yes", "yes"))
    said, true = sum(said == "yes" for said, _ in pairs), sum(label == "yes" for _, label in pairs)
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    return {
        "accuracy": sum(said == label for said, label in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes-rate": said / len(pairs),
    }


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
