"""Accuracy class by class, and what each class is taken for."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lcl_core.transfer.records import IMAGE_TO_CLASS, Records


@dataclass(frozen=True)
class ClassRow:
    """One class that was asked about.

    Attributes:
        count: pictures of it.
        acc1, acc5: share of them whose true class comes first, among the first five.
        taken_for: the class that the most of them are wrongly taken for, of equals the first by name; empty if none.
        times: how many.
    """

    label: str
    count: int
    acc1: float
    acc5: float
    taken_for: str
    times: int


def by_class(samples: Sequence[dict[str, Any]]) -> list[ClassRow]:
    """A row a true class, by name; ``samples`` are those of a sheet of ranks."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        grouped.setdefault(sample["label"], []).append(sample)
    rows = []
    for label, own in sorted(grouped.items()):
        wrong = Counter(sample["top"][0] for sample in own if sample["top"][0] != label)
        taken_for, times = min(wrong.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        first, five = (sum(sample["rank"] <= k for sample in own) / len(own) for k in (1, 5))
        rows.append(ClassRow(label, len(own), first, five, taken_for, times))
    return rows


def write_class_tables(records: Path, folder: Path) -> None:
    """``FOLDER/SHEET.csv`` for every sheet of ranked classes of the trained encoder."""
    for sheet, samples in Records(records).read():
        if sheet.kind != "ranks" or sheet.part != IMAGE_TO_CLASS or sheet.encoder != "trained":
            continue
        folder.mkdir(exist_ok=True)
        with (folder / sheet.file).with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(ClassRow)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in by_class(samples))
