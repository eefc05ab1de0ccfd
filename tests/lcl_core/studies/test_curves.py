"""Metric lines of several seeds as one curve a row."""

from collections.abc import Callable

from lcl_core.studies.results import MAX_POINTS, CellRecord, curve_metrics, training_curves

CellOf = Callable[..., CellRecord]


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


def test_long_curves_are_thinned_and_keep_their_ends(cell_of):
    lines = {"run_0": [{"step": step, "loss": 1.0} for step in range(1, 5001)]}
    (curve,) = training_curves([cell_of(0)], lines, "loss")
    assert len(curve["points"]) == MAX_POINTS
    assert (curve["points"][0][0], curve["points"][-1][0]) == (1, 5000)


def test_what_can_be_drawn():
    lines = {"a": [{"step": 0, "phase": "p"}, {"step": 1, "time": 2, "id": 3, "lr": 0.1, "loss": 1.0, "name": "x"}]}
    assert curve_metrics(lines) == ["loss", "lr"]
    assert curve_metrics({"a": []}) == []
    measured = [{"step": 1, "loss": 2.0, "held_out.loss": 3.0}, {"step": 2, "loss": 1.0}]
    assert curve_metrics({"a": measured}) == ["loss", "held_out.loss"], "not every line has all numbers"
