"""What the runs of a study found: states, metric values, costs, curves."""

import pytest

from lcl_core.specs.study import MetricSpec
from lcl_core.studies.results import (
    CellRecord,
    RunRecord,
    cell_state,
    curve_metrics,
    mean_costs,
    metric_value,
    study_state,
    training_curves,
)


@pytest.mark.parametrize(
    ("run", "evaluation", "cancelled", "state"),
    [
        ("queued", None, False, "queued"),
        ("running", None, False, "running"),
        ("cancelling", None, True, "cancelling"),
        ("failed", None, False, "failed"),
        ("cancelled", None, False, "cancelled"),
        ("succeeded", None, False, "running"),
        ("succeeded", None, True, "cancelled"),
        ("succeeded", "queued", False, "running"),
        ("succeeded", "running", False, "running"),
        ("succeeded", "failed", False, "failed"),
        ("succeeded", "cancelled", True, "cancelled"),
        ("succeeded", "succeeded", True, "succeeded"),
    ],
)
def test_a_cell_between_its_two_runs_is_running(run, evaluation, cancelled, state):
    assert cell_state(run, evaluation, cancelled=cancelled) == state


@pytest.mark.parametrize(
    ("counts", "cancelled", "state"),
    [
        ({"queued": 3}, False, "queued"),
        ({"queued": 2, "succeeded": 1}, False, "running"),
        ({"queued": 1, "failed": 1}, False, "running"),
        ({"running": 3}, False, "running"),
        ({"succeeded": 3}, False, "succeeded"),
        ({"succeeded": 2, "failed": 1}, False, "failed"),
        ({"succeeded": 2, "cancelled": 1}, False, "failed"),
        ({"cancelled": 2, "succeeded": 1}, True, "cancelled"),
        ({"cancelling": 1, "cancelled": 2}, True, "cancelling"),
        ({"running": 1, "cancelled": 2}, True, "cancelled"),
        ({"succeeded": 2}, True, "cancelled"),
    ],
)
def test_a_study_stands_as_its_cells_do(counts, cancelled, state):
    assert study_state(counts, cancelled=cancelled) == state


ROWS = [
    {"task": "retrieval", "split": "a", "variant": "captions[0]", "metric": "IR@5", "value": 0.2, "chance": 0.01,
     "untrained": 0.02},
    {"task": "retrieval", "split": "b", "variant": "captions[0]", "metric": "IR@5", "value": 0.4, "chance": 0.03,
     "untrained": None},
    {"task": "retrieval", "split": "a", "variant": "captions[0]", "metric": "TR@5", "value": 0.9},
]  # fmt: skip


def metric(**wanted):
    return MetricSpec(name="m", **wanted)


@pytest.mark.parametrize(
    ("wanted", "value", "count"),
    [
        ({"metric": "IR@5"}, 0.3, 2),
        ({"metric": "IR@5", "split": "b"}, 0.4, 1),
        ({"metric": "TR@5", "task": "retrieval", "variant": "captions[0]"}, 0.9, 1),
    ],
)
def test_all_rows_that_fit_are_averaged(cell_of, wanted, value, count):
    found = metric_value(metric(**wanted), cell_of(0, rows=ROWS, state="succeeded"))
    assert found is not None
    assert found.value == pytest.approx(value)


def test_chance_and_untrained_go_along_where_every_row_has_them(cell_of):
    both = metric_value(metric(metric="IR@5"), cell_of(0, rows=ROWS, state="succeeded"))
    one = metric_value(metric(metric="IR@5", split="a"), cell_of(0, rows=ROWS, state="succeeded"))
    assert both is not None
    assert one is not None
    assert (both.chance, both.untrained) == (pytest.approx(0.02), None)
    assert (one.chance, one.untrained) == (0.01, 0.02)


def test_nothing_without_a_row_or_an_ended_evaluation(cell_of):
    cell = cell_of(0, rows=ROWS, state="succeeded")
    assert metric_value(metric(metric="acc@1"), cell) is None
    assert metric_value(metric(metric="IR@5", task="classification"), cell) is None
    assert metric_value(metric(metric="IR@5"), cell_of(0)) is None
    unfinished = CellRecord(**{**vars(cell), "evaluation": RunRecord("e", "running", {"rows": ROWS})})
    assert metric_value(metric(metric="IR@5"), unfinished) is None


def test_costs_are_means_of_what_the_runs_report(cell_of):
    cells = [cell_of(n, state="succeeded", encoder={"flops": n, "seconds": True}) for n in (1, 3)]
    assert mean_costs([*cells, cell_of(9)])["flops"] == 2
    assert mean_costs(cells)["seconds"] is None


def test_a_figure_of_the_training_needs_no_evaluation(cell_of):
    cell = cell_of(0, state="succeeded", final={"generation_loss": 3.5, "step": 10, "fine": True})
    loss = metric_value(metric(of="training", metric="generation_loss"), cell)
    assert loss is not None
    assert (loss.value, loss.chance) == (3.5, None)
    assert metric_value(metric(of="training", metric="absent"), cell) is None
    assert metric_value(metric(of="training", metric="fine"), cell) is None


def test_the_seeds_of_a_row_are_one_curve(cell_of):
    cells = [cell_of(0), cell_of(1, seed=1), cell_of(2, labels={"loss": "other"})]
    lines = {
        "run_0": [{"step": 0, "phase": "preparing"}, {"step": 10, "loss": 4.0}, {"step": 20, "loss": 2.0}],
        "run_1": [{"step": 10, "loss": 6.0}],
    }
    both, other = training_curves(cells, lines, "loss")
    assert both["points"] == [[10, 5.0, 4.0, 6.0], [20, 2.0, 2.0, 2.0]]
    assert (both["labels"], other["labels"], other["points"]) == ({"loss": "both"}, {"loss": "other"}, [])
    assert training_curves(cells, lines, "absent")[0]["points"] == []


def test_what_can_be_drawn():
    lines = {"a": [{"step": 0, "phase": "p"}, {"step": 1, "time": 2, "id": 3, "lr": 0.1, "loss": 1.0, "name": "x"}]}
    assert curve_metrics(lines) == ["loss", "lr"]
    assert curve_metrics({"a": []}) == []
    measured = [{"step": 1, "loss": 2.0, "held_out.loss": 3.0}, {"step": 2, "loss": 1.0}]
    assert curve_metrics({"a": measured}) == ["loss", "held_out.loss"], "not every line has all numbers"
