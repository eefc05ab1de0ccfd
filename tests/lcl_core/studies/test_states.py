"""How a study stands follows from its runs."""

import pytest

from lcl_core.studies.results import cell_state, count_states, study_state


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


def test_states_are_counted_in_one_order():
    assert list(count_states(["failed", "queued", "failed"]).items()) == [("queued", 1), ("failed", 2)]
