"""Stored predictions: ``records/index.json`` lists the files, each file holds one JSON object a sample.

Metrics are a pure function of these files. JSON logs (``choice.json``, ``curves.json``) grow while a run goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically

IMAGE_TO_TEXT, TEXT_TO_IMAGE, IMAGE_TO_CLASS = "image_to_text", "text_to_image", "image_to_class"


@dataclass(frozen=True)
class PredictionFile:
    """The samples of one question put to one encoder.

    Attributes:
        task: in the words of ``EvaluateSpec.tasks``.
        variant: for retrieval the captions asked for, for classification the label key.
        transfer: ``zero_shot``, ``frozen`` or ``full``.
        kind: how the samples are scored, a name in ``lcl_core.evaluation.results``.
        encoder: ``trained`` or ``untrained``.
        part: which of the variant's questions, where there are several (``image_to_text``, ``text_to_image``).
        facts: what scoring needs beside the samples, and ``left_out``: pictures not asked about, by reason. JSON
            values.
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
        """The same for every encoder that was asked it."""
        return self.task, self.split, self.variant, self.transfer, self.part

    @property
    def file(self) -> str:
        words = (self.task, self.split, self.variant, self.part, self.transfer, self.encoder)
        return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("_") for word in words if word) + ".jsonl"


class PredictionStore:
    """The sheets of one examination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: list[dict[str, Any]] = []

    def start(self) -> None:
        """An empty folder; what an earlier attempt left is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.iterdir():
            stale.unlink()

    def add(self, sheet: PredictionFile, samples: Iterable[dict[str, Any]]) -> None:
        """Write a sheet whole, then list it."""
        taken = sum(entry["file"].endswith(sheet.file) for entry in self._index)  # a label a-b and a label a_b
        name = f"{taken + 1}-{sheet.file}" if taken else sheet.file
        with (self.folder / name).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        self._index.append({"file": name, **asdict(sheet)})
        write_json_atomically(self.folder / "index.json", self._index)

    def read(self) -> list[tuple[PredictionFile, list[dict[str, Any]]]]:
        """Every sheet with its samples, in the order they were asked.

        Raises:
            UserError: ``records_unreadable``, naming the file and line.
        """
        index = self.folder / "index.json"
        if not index.is_file():
            raise UserError("there are no evaluation records here", code="records_unreadable", file=self.folder)
        entries = json.loads(index.read_text(encoding="utf-8"))
        named = [(entry.pop("file"), PredictionFile(**entry)) for entry in entries]
        return [(sheet, self._samples(name)) for name, sheet in named]

    def _samples(self, name: str) -> list[dict[str, Any]]:
        samples = []
        with (self.folder / name).open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    samples.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"not a JSON object ({error.msg}); evaluate again",
                        code="records_unreadable", file=self.folder / name, line=number,
                    ) from None  # fmt: skip
        return samples


_CURVE_POINTS = 400


class JsonLog:
    """Written whole after each entry, so that what a stopped run found can be read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.entries: list[dict[str, Any]] = []

    def start(self) -> None:
        """Forget an earlier attempt."""
        self._file.unlink(missing_ok=True)

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        write_json_atomically(self._file, self.entries)


def loss_curve(losses: Sequence[float]) -> dict[str, Any]:
    """The loss of each step as an entry of ``curves.json``, thinned by averaging neighbours."""
    every = max(1, -(-len(losses) // _CURVE_POINTS))
    points = [round(float(np.mean(losses[at : at + every])), 5) for at in range(0, len(losses), every)]
    return {"steps_a_point": every, "loss": points}
