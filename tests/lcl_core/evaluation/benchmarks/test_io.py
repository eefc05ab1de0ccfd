"""Reading the benchmarks' tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lcl_core.evaluation.benchmarks import BENCHMARKS
from lcl_core.evaluation.benchmarks.io import read_json_lines, read_table


def test_reading_leaves_the_bound_on_fields_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    table = tmp_path / "large.tsv"
    table.write_text("index\timage\n1\t" + "A" * (before + 1) + "\n")
    assert [len(row["image"]) for _, row in read_table(table, ("index", "image"))] == [before + 1]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_ends_end_lines(tmp_path: Path, end: str) -> None:
    """U+2028, U+2029, U+0085 and others may stand in a JSON string, a field of a table, and a question."""
    text = "a\u2028b\u2029c\x85d\x0be\x0cf"
    lines, table, subtask = tmp_path / "lines.jsonl", tmp_path / "table.tsv", tmp_path / "count.txt"
    values = [{"text": text.replace("\x0b", "").replace("\x0c", "")}, {"text": "second"}]
    lines.write_text("".join(json.dumps(value, ensure_ascii=False) + end for value in values), newline="")
    assert list(read_json_lines(lines)) == list(enumerate(values, start=1))
    table.write_text(end.join(["index\ttext", f"1\t{text}", '2\t"two', 'lines"', "3\tlast"]) + end, newline="")
    rows = [(line, row["text"].replace("\r", "")) for line, row in read_table(table, ("index", "text"))]
    assert rows == [(2, text), (4, "two\nlines"), (5, "last")]
    subtask.write_text(end.join([f"1.jpg\t{text}?\tYes", "1.jpg\tA car?\tNo"]) + end, newline="")
    assert [question.text for question in BENCHMARKS["mme"].load(tmp_path)] == [f"{text}?", "A car?"]
