"""What an examination will ask, settled and checked before anything expensive starts."""

from __future__ import annotations

from dataclasses import dataclass

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.specs import EvaluateSpec
from lcl_core.transfer.classification import Task, plan_task
from lcl_core.transfer.gallery import Picture, read_gallery
from lcl_core.transfer.retrieval import Variant, variants

# Rough cost of one unit of work as a share of embedding one picture; only the time-left figure depends on it.
TEXT_UNITS = 0.5
PROBE_UNITS = 0.05


@dataclass(frozen=True)
class Plan:
    """Pictures of every split, retrieval variants and classification tasks.

    Attributes:
        galleries: pictures of each tested split.
        train: pictures that the probe learns from; empty without classification.
        variants: retrieval variants of each tested split; empty without retrieval.
    """

    galleries: dict[str, list[Picture]]
    train: list[Picture]
    variants: dict[str, list[Variant]]
    tasks: list[Task]

    @property
    def texts(self) -> dict[str, list[str]]:
        """The texts to embed for each split, each once."""
        return {
            split: list(dict.fromkeys(text for each in asked for text in each.texts.texts))
            for split, asked in self.variants.items()
        }

    def units(self, spec: EvaluateSpec) -> float:
        """Work units of the whole run."""
        pictures = len(self.train) + sum(map(len, self.galleries.values()))
        texts = sum(map(len, self.texts.values()))
        learnt = sum(len(task.train.rows) for task in self.tasks) * spec.classification.epochs
        each = pictures + TEXT_UNITS * texts + PROBE_UNITS * learnt
        return each * (2 if spec.untrained_baseline else 1)


def make_plan(spec: EvaluateSpec, corpus: Corpus) -> Plan:
    """Read the splits and settle every question.

    Raises:
        UserError: a split is empty, has no captions or no known labels, or is what the probe learns from;
            names the field.
    """
    galleries = {
        split: read_gallery(corpus, split, spec.source, field=f"splits.{spec.splits.index(split)}")
        for split in dict.fromkeys(spec.splits)
    }
    asked, train, tasks = {}, [], []
    if "retrieval" in spec.tasks:
        asked = {split: _variants(split, pictures) for split, pictures in galleries.items()}
    if "classification" in spec.tasks:
        labels = tuple(dict.fromkeys(spec.classification.labels))
        train = _teachers(spec, corpus, labels)
        tasks = [plan_task(label, spec.classification, train, galleries) for label in labels]
    return Plan(galleries, train, asked, tasks)


def _teachers(spec: EvaluateSpec, corpus: Corpus, labels: tuple[str, ...]) -> list[Picture]:
    """The pictures that the probe learns from: those of the train split that have any of the labels."""
    split = spec.classification.train_split
    if split in spec.splits:
        raise UserError(
            f"the probe learns from split {split!r}, so it cannot be examined on it; "
            "name another in splits or in classification.train_split",
            code="train_split_tested", field=f"splits.{spec.splits.index(split)}",
        )  # fmt: skip
    pictures = read_gallery(corpus, split, spec.source, field="classification.train_split")
    labelled = [picture for picture in pictures if not picture.labels.keys().isdisjoint(labels)]
    return labelled or pictures  # with none, the complaint about the label can name those that there are


def _variants(split: str, pictures: list[Picture]) -> list[Variant]:
    found = variants(pictures)
    if not found:
        raise UserError(f"split {split!r} has no captions to retrieve by", code="nothing_to_score", field="splits")
    return found
