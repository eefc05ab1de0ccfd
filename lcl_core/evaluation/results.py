"""Results of an evaluation: stored predictions, their metrics, and the result tables.

``records/index.json`` lists the prediction files; each is a ``.jsonl`` file with one object a sample. Predictions are
stored before anything is scored, and metrics are a pure function of them: no model is loaded to compute them again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.evaluation.caption_metrics import caption_metrics
from lcl_core.evaluation.metrics import (
    BootstrapMetric,
    Ints,
    chance_median_rank,
    chance_recall,
    class_mean,
    majority_accuracy,
    mean_of,
    median_of,
)
from lcl_core.evaluation.vlm.questions import answer_metrics

Samples = Sequence[dict[str, Any]]

IMAGE_TO_TEXT, TEXT_TO_IMAGE, IMAGE_TO_CLASS = "image_to_text", "text_to_image", "image_to_class"
RECALLS = (1, 5, 10)
ACCURACIES = (1, 5)
_MAX_NAME = 180  # characters in the name of a file


# ---- stored predictions


@dataclass(frozen=True)
class PredictionFile:
    """The predictions of one encoder for one question.

    Attributes:
        task: a name in ``EvaluateSpec.tasks``.
        variant: for retrieval which captions, for classification the label key.
        transfer: ``zero_shot``, ``frozen`` or ``full``.
        kind: how the samples are scored: ``ranks``, ``captions`` or ``answers``.
        encoder: ``trained`` or ``untrained``.
        part: which of the variant's questions, where there are several (``image_to_text``, ``text_to_image``).
        facts: JSON values that scoring needs beside the samples, and ``left_out``: images without a prediction, by
            reason.
    """

    task: str
    split: str
    variant: str
    transfer: str
    kind: str
    encoder: str
    part: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> tuple[str, ...]:
        """Equal for every encoder."""
        return self.task, self.split, self.variant, self.transfer, self.part


class PredictionStore:
    """The prediction files of one evaluation, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: list[dict[str, Any]] = []

    def start(self) -> None:
        """Create the folder with an empty index, or empty it after an earlier attempt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.iterdir():
            stale.unlink()
        write_json_atomically(self.folder / "index.json", self._index)

    def add(self, file: PredictionFile, samples: Iterable[dict[str, Any]]) -> None:
        """Write a file completely, then list it in the index."""
        words = (file.task, file.split, file.variant, file.part, file.transfer, file.encoder)
        safe = (re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("_") for word in words)
        name = "-".join(word for word in safe if word)[:_MAX_NAME] + ".jsonl"
        if name.lower() in {entry["file"].lower() for entry in self._index}:  # labels a-b and a_b give one name
            name = f"{len(self._index)}-{name}"
        with (self.folder / name).open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        self._index.append({"file": name, **asdict(file)})
        write_json_atomically(self.folder / "index.json", self._index)

    def read(
        self, wanted: Callable[[PredictionFile], object] = lambda file: True
    ) -> Iterator[tuple[str, PredictionFile, list[dict[str, Any]]]]:
        """(name in the folder, file, samples) of the ``wanted`` files, in the order they were written.

        The samples of a file are read when it is reached: those of all files may exceed the memory.
        """
        index = self.folder / "index.json"
        if not index.is_file():
            raise UserError("there are no evaluation records here", code="corpus_unreadable", file=self.folder)
        entries = json.loads(index.read_text(encoding="utf-8"))
        named = [(entry.pop("file"), PredictionFile(**entry)) for entry in entries]
        return ((name, file, self._samples(name)) for name, file in named if wanted(file))

    def _samples(self, name: str) -> list[dict[str, Any]]:
        with (self.folder / name).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


# ---- metrics of a prediction file


def rank_metrics(file: PredictionFile, samples: Samples) -> list[BootstrapMetric]:
    """Recalls and median rank of retrieval, or accuracies of classification.

    A sample has ``query``, ``rank`` (1-based, of the best correct candidate), ``right`` (number of correct candidates)
    and ``top`` (the five best candidates), and may have ``group``, a concept whose samples are drawn together;
    classification adds ``label`` and ``probability`` (of the true class). The facts hold ``candidates`` and, for
    classes, ``train_counts``.
    """
    rank, correct = (np.array([sample[name] for sample in samples], np.int64) for name in ("rank", "right"))
    units, groups = [sample["query"] for sample in samples], sample_groups(samples)
    candidates = file.facts["candidates"]
    if file.part != IMAGE_TO_CLASS:
        name = "TR" if file.part == IMAGE_TO_TEXT else "IR"
        recalls = [
            BootstrapMetric(
                f"{name}@{k}", units, rank <= k, mean_of, chance_recall(candidates, correct, k), groups=groups
            )
            for k in RECALLS
        ]
        chance = chance_median_rank(candidates, correct)
        return [*recalls, BootstrapMetric(f"{name} median rank", units, rank, median_of, chance, groups=groups)]
    majority: dict[int, float] = {}
    if counts := file.facts.get("train_counts"):  # zero-shot classification has none
        number = {label: position for position, label in enumerate(counts)}
        target: Ints = np.array([number[sample["label"]] for sample in samples], np.int64)
        trained = np.array(list(counts.values()), np.int64)
        majority = {k: majority_accuracy(trained, target, k) for k in ACCURACIES}
    accuracies = [
        BootstrapMetric(
            f"acc@{k}", units, rank <= k, mean_of, chance_recall(candidates, correct, k), majority.get(k), groups=groups
        )
        for k in ACCURACIES
    ]
    # of each class 48 bits of a hash, which a float holds exactly: the same number in every run
    hashes = [hashlib.blake2b(sample["label"].encode(), digest_size=6).digest() for sample in samples]
    by_class = np.stack([[float(int.from_bytes(each)) for each in hashes], rank == 1], axis=1)
    return [
        *accuracies,
        BootstrapMetric("acc@1 class mean", units, by_class, class_mean, 1 / candidates, groups=groups),
    ]


def sample_groups(samples: Samples) -> list[str] | None:
    """The group of each sample; empty: it is one by itself.

    None where no two samples share one, and where all do: nothing is known then of what other groups would give.
    """
    groups = [str(sample.get("group", "")) for sample in samples]
    number = len(set(groups) - {""}) + groups.count("")
    return groups if 1 < number < len(groups) else None


def metrics_of_file(file: PredictionFile, samples: Samples, *, baselines: bool = True) -> list[BootstrapMetric]:
    """The metrics of a prediction file, ``baselines`` that take another scoring included."""
    if file.kind == "ranks":
        return rank_metrics(file, samples)
    if file.kind == "captions":
        return caption_metrics(file.facts, samples, baselines=baselines)
    return answer_metrics(samples, baselines=baselines)


# ---- rows of the table

Row = dict[str, Any]


def score_predictions(folder: Path, *, seed: int) -> list[Row]:
    """Score the prediction files in ``folder``, trained next to untrained; ``seed`` drives the bootstrap.

    A row is one number: ``transfer`` is ``zero_shot``, ``frozen`` or ``full``; ``value`` that of the trained encoder, a
    share in [0, 1] unless it is a rank, ``interval`` its 95 % bootstrap interval over the units or their groups;
    ``chance`` and ``majority`` are as in :class:`BootstrapMetric`; ``untrained`` is the same architecture with random
    weights; ``count`` are units (queries, images, questions), ``candidates`` those of each query, ``left_out`` images
    without a prediction, by reason.
    """
    store = PredictionStore(folder)
    baselines = {
        (*file.question, metric.metric): (metric.value, list(metric.interval(seed)))
        for _, file, samples in store.read(lambda file: file.encoder == "untrained")
        for metric in metrics_of_file(file, samples)
    }
    rows = []
    for _, file, samples in store.read(lambda file: file.encoder == "trained"):
        for metric in metrics_of_file(file, samples):
            untrained, untrained_interval = baselines.get((*file.question, metric.metric), (None, None))
            rows.append(
                {
                    "task": file.task,
                    "split": file.split,
                    "variant": file.variant,
                    "transfer": file.transfer,
                    "metric": metric.metric,
                    "value": metric.value,
                    "interval": list(metric.interval(seed)),
                    "chance": metric.chance,
                    "majority": metric.majority,
                    "untrained": untrained,
                    "untrained_interval": untrained_interval,
                    "count": len(metric.units),
                    "candidates": file.facts.get("candidates"),
                    "left_out": file.facts.get("left_out", {}),
                }
            )
    return rows


# ---- tables

_COLUMNS = (
    *("task", "split", "variant", "transfer", "metric", "value", "low", "high"),
    *("untrained", "untrained_low", "untrained_high", "chance", "majority", "count", "candidates", "left_out"),
)


def write_tables(folder: Path, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write ``table.json`` and ``table.csv``; ``facts`` name the encoder and the dataset."""
    write_json_atomically(folder / "table.json", {**facts, "rows": rows})
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            low, high = row["interval"]
            untrained_low, untrained_high = row["untrained_interval"] or (None, None)
            left_out = json.dumps(row["left_out"]) if row["left_out"] else ""
            bounds = {"untrained_low": untrained_low, "untrained_high": untrained_high, "low": low, "high": high}
            writer.writerow({**row, **bounds, "left_out": left_out})
