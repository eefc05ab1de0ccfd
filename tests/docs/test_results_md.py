"""The page of results: its tables are what the committed values come to, and its sentences quote no other numbers."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

import pytest

from benchmarks.tables import (
    EVALUATION_ROWS,
    PAGE,
    TABLES,
    SingleRunTable,
    build,
    evaluation_rows,
    replace_table,
    values_path,
)

TEXT = PAGE.read_text(encoding="utf-8")
DECIMAL = re.compile(r"(?<![\d.])\.\d+")
SINGLE_RUNS = {name: table for name, table in TABLES.items() if isinstance(table, SingleRunTable)}
IN_WORDS = {".1", ".05", ".2", ".02"}  # weights of the loss that was varied; the margin of equivalence


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_what_the_values_by_seed_come_to(name: str) -> None:
    shown = re.search(rf"<!-- table {name} -->\n((?:\|.*\n)+)", TEXT)
    assert shown is not None
    assert shown[1].splitlines() == build(name), "python -m benchmarks tables --write"


def test_there_is_no_other_table_of_figures() -> None:
    heads = [lines.splitlines()[0] for lines in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)]
    made = [build(name)[0] for name in TABLES]
    assert [head for head in heads if head not in made] == [
        "| claim of the paper | after 20,000 images | after 205,000, from the same documents |"
    ]


def test_sentences_quote_only_numbers_of_the_tables() -> None:
    known = set(IN_WORDS)
    prose = TEXT
    for name in TABLES:
        known |= {number for line in build(name) for number in DECIMAL.findall(line)}
        prose = replace_table(prose, name, ["|"])
    assert set(DECIMAL.findall(prose)) - known == set()


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_behind_a_table_has_ended(name: str) -> None:
    """A table that was saved while runs were under way is not the one of the finished study."""
    table: dict[str, Any] = json.loads(values_path(name, ".json").read_text(encoding="utf-8"))
    for row in table["rows"]:
        assert row["states"] == {"succeeded": len(row["seeds"])}, row["labels"]
        for figure in row["figures"].values():
            assert figure["values"].keys() == {str(seed) for seed in row["seeds"]}
            assert figure["count"] == len(row["seeds"])


@pytest.mark.parametrize("name", TABLES)
def test_the_csv_is_the_same_table(name: str) -> None:
    table = json.loads(values_path(name, ".json").read_text(encoding="utf-8"))
    with values_path(name, ".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    axes = TABLES[name].axis.split(",")
    figures = {
        (*(row["labels"][axis] for axis in axes), metric): figure
        for row in table["rows"]
        for metric, figure in row["figures"].items()
    }
    assert len(rows) == len(figures)
    for row in rows:
        figure = figures[*(row[axis] for axis in axes), row["metric"]]
        assert float(row["mean"]) == pytest.approx(figure["mean"], rel=1e-6)
        assert int(row["count"]) == figure["count"]


@pytest.mark.parametrize("name", SINGLE_RUNS)
def test_the_evaluations_behind_intervals_have_the_figures_of_the_study(name: str) -> None:
    """The intervals are those of the evaluations."""
    folder = values_path(name, ".json").parent / name
    rows = json.loads(values_path(name, ".json").read_text(encoding="utf-8"))["rows"]
    assert {file.stem for file in folder.iterdir()} == {row["labels"]["method"] for row in rows}
    for row in rows:
        evaluated = evaluation_rows(folder / f"{row['labels']['method']}.csv")
        for metric, figure in row["figures"].items():
            expected = figure["values"][SINGLE_RUNS[name].seed]
            assert float(evaluated[EVALUATION_ROWS[metric]]["value"]) == pytest.approx(expected)
