"""What the encoder answered to every single question, stored before anything is scored.

``records/index.json`` lists the sheets; each sheet is a ``.jsonl`` file of samples. Scores are a pure
function of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lcl_core.errors import UserError
from lcl_core.rundir import write_json_atomically

IMAGE_TO_TEXT, TEXT_TO_IMAGE, IMAGE_TO_CLASS = "image_to_text", "text_to_image", "image_to_class"


@dataclass(frozen=True)
class Sheet:
    """The samples of one question put to one encoder.

    Attributes:
        task: in the words of ``EvaluateSpec.tasks``.
        variant: for retrieval the captions asked for, for classification the label key.
        transfer: ``zero_shot``, ``frozen`` or ``full``.
        kind: how the samples are scored, a name in ``lcl_core.transfer.scoring.registry``.
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


class Records:
    """The sheets of one examination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: list[dict[str, Any]] = []

    def start(self) -> None:
        """An empty folder; what an earlier attempt left is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.iterdir():
            stale.unlink()

    def add(self, sheet: Sheet, samples: Iterable[dict[str, Any]]) -> None:
        """Write a sheet whole, then list it."""
        taken = sum(entry["file"].endswith(sheet.file) for entry in self._index)  # a label a-b and a label a_b
        name = f"{taken + 1}-{sheet.file}" if taken else sheet.file
        with (self.folder / name).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        self._index.append({"file": name, **asdict(sheet)})
        write_json_atomically(self.folder / "index.json", self._index)

    def read(self) -> list[tuple[Sheet, list[dict[str, Any]]]]:
        """Every sheet with its samples, in the order they were asked.

        Raises:
            UserError: ``records_unreadable``, naming the file and line.
        """
        index = self.folder / "index.json"
        if not index.is_file():
            raise UserError("there are no evaluation records here", code="records_unreadable", file=self.folder)
        entries = json.loads(index.read_text(encoding="utf-8"))
        named = [(entry.pop("file"), Sheet(**entry)) for entry in entries]
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
