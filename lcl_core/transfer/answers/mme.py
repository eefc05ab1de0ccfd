"""MME (Fu et al. 2023): fourteen subtasks of yes-no questions, two a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lcl_core.transfer.answers.files import read_text, refuse, unique
from lcl_core.transfer.answers.question import Answered, Question, Scorer, Scores, means, missing
from lcl_core.transfer.answers.yes_no import mme_answer

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
AREAS = {"perception": PERCEPTION, "cognition": COGNITION}
_FULL = 100.0


class MME(Scorer):
    """``acc`` and ``acc+`` (both questions of a picture right) a subtask; scores are 100 (acc + acc+), summed."""

    name = "mme"

    def load(self, path: Path) -> list[Question]:
        """From the folder with a ``<subtask>.txt`` each: picture, question, yes or no, between tabs."""
        files = [path / f"{subtask}.txt" for subtask in (*PERCEPTION, *COGNITION)]
        files = [file for file in files if file.is_file()]
        if not files:
            refuse("expected text files named after the subtasks here: existence.txt, count.txt …", path)
        return unique([question for file in files for question in _questions(file)], path)

    def score(self, records: Iterable[Answered]) -> Scores:
        records = list(records)
        samples: dict[str, dict[str, float]] = {}
        metrics: dict[str, float] = {}
        for subtask in (*PERCEPTION, *COGNITION):
            here = [record for record in records if record.question.groups["subtask"] == subtask]
            if here:
                samples |= {f"acc ({subtask})": _correct(here), f"acc+ ({subtask})": _both(here)}
        metrics |= means(samples)
        for area, subtasks in AREAS.items():
            for subtask in subtasks:
                if f"acc ({subtask})" in metrics:
                    metrics[f"score ({subtask})"] = _FULL * (metrics[f"acc ({subtask})"] + metrics[f"acc+ ({subtask})"])
            metrics[area] = sum(metrics.get(f"score ({subtask})", 0.0) for subtask in subtasks)
        return Scores(metrics, samples, missing(records))


def _correct(records: Sequence[Answered]) -> dict[str, float]:
    return {
        record.question.id: float(record.answer is not None and mme_answer(record.answer) == record.question.truth[0])
        for record in records
    }


def _both(records: Sequence[Answered]) -> dict[str, float]:
    """By picture."""
    correct = _correct(records)
    pictures: dict[str, float] = {}
    for record in records:
        image = record.question.image
        pictures[image] = min(pictures.get(image, 1.0), correct[record.question.id])
    return pictures


def _questions(file: Path) -> list[Question]:
    questions, asked = [], dict[str, int]()
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 3 or fields[2].strip().lower() not in ("yes", "no"):
            refuse("expected picture, question, Yes or No, between tabs", file, number)
        image = f"{file.stem}/{fields[0]}"
        asked[image] = asked.get(image, 0) + 1
        questions.append(
            Question(
                id=f"{image}#{asked[image]}",
                image=image,
                text=fields[1],
                truth=(fields[2].strip().lower(),),
                groups={"subtask": file.stem},
            )
        )
    odd = next((image for image, times in asked.items() if times != 2), None)
    if odd is not None:
        refuse(f"{odd} has {asked[odd]} questions; acc+ needs two of every picture", file)
    return questions
