"""Accuracy by class, by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lcl_core.evaluation.results import ClassRow, PredictionFile, PredictionStore, class_rows, write_class_tables


def sample(label: str, first: str, rank: int) -> dict[str, Any]:
    return {"query": "q", "label": label, "rank": rank, "right": 1, "top": [first], "probability": 0.5}


SAMPLES = [sample("ant", "ant", 1), sample("ant", "bee", 4), sample("ant", "cat", 9), sample("bee", "bee", 1)]


def test_rows_by_hand() -> None:
    assert class_rows(SAMPLES) == [
        ClassRow("ant", 3, 1 / 3, 2 / 3, "bee", 1),  # bee and cat once each: the first by name
        ClassRow("bee", 1, 1.0, 1.0, "", 0),
    ]


def test_tables_are_written_of_the_trained_encoder_s_classes(tmp_path: Path) -> None:
    records = PredictionStore(tmp_path / "records")
    records.start()
    for encoder in ("trained", "untrained"):
        records.add(PredictionFile("c", "t", "kind", "frozen", "ranks", encoder, part="image_to_class"), SAMPLES)
    records.add(PredictionFile("r", "t", "all", "zero_shot", "ranks", "trained", part="image_to_text"), [])
    write_class_tables(records.folder, tmp_path / "classes")
    (file,) = (tmp_path / "classes").iterdir()
    with file.open(newline="") as lines:
        assert [row["label"] for row in csv.DictReader(lines)] == ["ant", "bee"]


def test_other_files_are_not_read_for_tables(tmp_path: Path) -> None:
    records = PredictionStore(tmp_path / "records")
    records.start()
    records.add(PredictionFile("r", "t", "all", "zero_shot", "ranks", "trained", part="image_to_text"), [])
    records.add(PredictionFile("c", "t", "kind", "frozen", "ranks", "untrained", part="image_to_class"), SAMPLES)
    for file in records.folder.glob("*.jsonl"):
        file.unlink()
    write_class_tables(records.folder, tmp_path / "classes")
    assert not (tmp_path / "classes").exists()


def test_labels_that_give_one_name_have_a_table_each(tmp_path: Path) -> None:
    """``a-b`` and ``a_b``."""
    records = PredictionStore(tmp_path / "records")
    records.start()
    for label, samples in (("a-b", SAMPLES), ("a_b", [sample("cow", "cow", 1)])):
        records.add(PredictionFile("c", "t", label, "frozen", "ranks", "trained", part="image_to_class"), samples)
    write_class_tables(records.folder, tmp_path / "classes")
    tables = {file.stem: file.read_text().splitlines()[1:] for file in (tmp_path / "classes").iterdir()}
    assert tables.keys() == {file.stem for file in records.folder.glob("*.jsonl")}
    assert sorted(line.split(",")[0] for lines in tables.values() for line in lines) == ["ant", "bee", "cow"]
