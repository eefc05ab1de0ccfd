"""Reading the benchmarks' tables."""

from __future__ import annotations

import csv
from pathlib import Path

from lcl_core.evaluation.benchmarks.io import read_table


def test_reading_leaves_the_bound_on_fields_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    table = tmp_path / "large.tsv"
    table.write_text("index\timage\n1\t" + "A" * (before + 1) + "\n")
    assert [len(row["image"]) for _, row in read_table(table, ("index", "image"))] == [before + 1]
    assert csv.field_size_limit() == before
