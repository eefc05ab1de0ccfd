"""A whole table from runs that found what is known beforehand."""

import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from lcl_core.studies.table import as_csv, as_json, build_table, table_notes

Json = dict[str, Any]
VALUES = {"both": (0.20, 0.22, 0.24), "contrastive": (0.15, 0.18, 0.19)}
COST = {"both": 20.0, "contrastive": 10.0}


@pytest.fixture
def study(study_of):
    return study_of(seeds=[0, 1, 2])


@pytest.fixture
def cells(cell_of):
    made = []
    for seed in range(3):
        for loss, values in VALUES.items():
            encoder = {"seconds": COST[loss], "images_seen": 64, "tokens_seen": 640, "flops": 1e9}
            rows = [{"task": "retrieval", "split": "test", "variant": "captions[0]", "metric": "IR@5",
                     "value": values[seed], "chance": 0.01, "untrained": 0.02}]  # fmt: skip
            facts = {"labels": {"loss": loss}, "encoder": encoder, "rows": rows}
            made.append(cell_of(len(made), values[seed], seed=seed, **facts))
    return made


def test_a_row_sums_up_its_seeds(study, cells):
    table = build_table(study, cells)
    assert [row["labels"] for row in table["rows"]] == [{"loss": "both"}, {"loss": "contrastive"}]
    both = table["rows"][0]
    figure = both["figures"]["IR@5"]
    assert (figure["mean"], figure["sd"], figure["count"]) == (pytest.approx(0.22), pytest.approx(0.02), 3)
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert figure["interval"] == pytest.approx((0.22 - half, 0.22 + half))
    assert figure["values"] == {"0": 0.20, "1": 0.22, "2": 0.24}
    assert (figure["chance"], figure["untrained"]) == (0.01, 0.02)
    assert (both["seeds"], both["cells"], both["states"]) == ([0, 1, 2], [0, 2, 4], {"succeeded": 3})
    assert (both["compute"]["seconds"], both["compute"]["images_seen"]) == (20.0, 64.0)
    assert both["compute"]["flops"] == 1e9
    assert both["compute"]["parameters"] is None


def test_rows_are_compared_with_the_baseline_over_their_seeds(study, cells):
    """Differences -.05, -.04, -.05: mean -.046667, sd .0057735, t = -14."""
    table = build_table(study, cells)
    (found,) = table["comparisons"]["IR@5"]
    assert (table["baseline"], found["row"], found["count"]) == (0, 1, 3)
    assert found["difference"] == pytest.approx(-0.14 / 3)
    assert found["t"] == pytest.approx(-14)
    assert found["p"] == found["p_holm"] == pytest.approx(1 - 14 / math.sqrt(14**2 + 2))


def test_the_baseline_may_be_named(study, cells):
    named = study.model_copy(update={"baseline": {"loss": "contrastive"}})
    table = build_table(named, cells)
    (found,) = table["comparisons"]["IR@5"]
    assert (table["baseline"], found["row"], found["difference"] > 0) == (1, 0, True)


def test_the_front_is_over_the_cost(study, cells):
    assert build_table(study, cells)["pareto"]["IR@5"] == [1, 0]


def test_a_table_fills_as_cells_end(study, cells, cell_of):
    waiting = [cell_of(cell.number, seed=cell.seed, labels=cell.labels) for cell in cells]
    empty = build_table(study, waiting)
    assert [row["states"] for row in empty["rows"]] == [{"queued": 3}] * 2
    assert empty["rows"][0]["figures"] == {}
    assert (empty["comparisons"]["IR@5"], empty["pareto"]["IR@5"]) == ([], [])
    partly = build_table(study, [*cells[:3], *waiting[3:]])
    assert partly["rows"][0]["figures"]["IR@5"]["count"] == 2
    contrastive = partly["rows"][1]["figures"]["IR@5"]
    assert (contrastive["mean"], contrastive["sd"], contrastive["interval"]) == (0.15, None, None)
    (found,) = partly["comparisons"]["IR@5"]
    assert (found["count"], found["p"]) == (1, None)


def test_both_formats_say_the_same(study, cells):
    table = build_table(study, cells)
    assert json.loads(as_json(table, "what?"))["rows"] == json.loads(json.dumps(table["rows"]))
    lines = list(csv.DictReader(io.StringIO(as_csv(table, "what?"))))
    assert [(line["loss"], line["metric"], line["count"]) for line in lines] == [
        ("both", "IR@5", "3"),
        ("contrastive", "IR@5", "3"),
    ]
    assert float(lines[0]["mean"]) == pytest.approx(0.22)
    assert float(lines[0]["low"]) == pytest.approx(table["rows"][0]["figures"]["IR@5"]["interval"][0])
    assert (lines[0]["seconds"], lines[0]["parameters"], lines[0]["steps"]) == ("20.0", "", "10")


def test_an_empty_table_is_written_too(study, cell_of):
    table = build_table(study, [cell_of(0)])
    assert len(as_csv(table, "t").splitlines()) == 2


def test_datasets_that_changed_during_the_study_are_named(study_of, cell_of):
    def notes(trained, evaluated):
        cells = []
        for number, (before, after) in enumerate(zip(trained, evaluated, strict=True)):
            cell = cell_of(number, 0.5, seed=number)
            read = [{"datasets": {"sample": before, "same": "s" * 64}}, {"datasets": {"other": after}}]
            run, evaluation = (
                replace(run, inputs=inputs) for run, inputs in zip((cell.run, cell.evaluation), read, strict=True)
            )
            cells.append(replace(cell, run=run, evaluation=evaluation))
        return table_notes(study_of(seeds=[0, 1]), cells)

    assert notes([None, "a" * 64], ["c" * 64] * 2) == [], "contents that are not known are not known to differ"
    (note,) = notes(["b" * 64, "a" * 64], ["c" * 64] * 2)
    assert note.startswith("Pre-trainings read different contents of sample (aaaaaaaaaaaa, bbbbbbbbbbbb): ")
    (note,) = notes(["a" * 64] * 2, ["c" * 64, "d" * 64])
    assert note.startswith("Evaluations read different contents of other (cccccccccccc, dddddddddddd): ")
