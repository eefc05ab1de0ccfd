"""The tabs' handlers against a service that answers from memory."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pytest

from tests.ui.conftest import runs_tab
from ui.spec_fields import from_json
from ui.tabs.run_comparison import RunCurve
from ui.tabs.run_view import RUN_ACTIONS
from ui.tabs.runs import SelectedRun, WatchedRun


def line(step: int) -> dict[str, Any]:
    return {"step": step, "contrastive_loss": 1 / step, "generation_loss": 10 / step}


def picked(value: str) -> Any:
    """What Gradio gives of a click on an element with ``data-pick``."""
    return type("Event", (), {"pick": value})()


def test_an_address_prepares_the_form_of_a_run(service: Any, run: dict[str, Any]) -> None:
    datasets = [{"name": "sample", "created_at": "2026"}]
    tab = runs_tab(service(run=run, encoders=[], datasets=datasets, collections=[], runs={"items": []}))
    request: Any = type("Request", (), {"query_params": {"tab": "runs", "new": "evaluate", "on": "enc_1"}})()
    opened, selection = tab.open_address(SelectedRun(), "null", request), SelectedRun()
    assert (opened[tab.overview].visible, "Evaluate an encoder" in opened[tab.form]) == (False, True)
    assert 'value="enc_1"' in opened[tab.form]
    draft = {"kind": ["evaluate"], "spec": ["{"], "run-name": ["half"], "changed": ["spec"]}
    tab.open_address(selection, json.dumps(draft), request)
    assert (selection.form.text, selection.form.name) == ("{", "half")
    on = {"new": "convert", "dataset": "sample", "only_tags": "kept"}
    spec = from_json(tab.open_form(on).text)
    assert (spec["dataset"], spec["only_tags"], spec["name"]) == ("sample", ["kept"], "sample-converted")
    run |= {"spec": {"preset": "sample", "steps": 77}}
    cloned = tab.open_form({"new": "pretrain", "clone": "run_1"})
    assert (from_json(cloned.text)["steps"], cloned.name) == (77, "first")
    request.query_params = {"tab": "runs"}
    closed = tab.open_address(selection, "null", request)
    assert (closed[tab.overview].visible, closed[tab.form], selection.form) == (True, "", None)


def test_a_started_run_is_open_in_place_of_its_form(service: Any, run: dict[str, Any], estimate: Any) -> None:
    facts = {"runs": {"items": [run]}, "metrics": [], "logs": {"text": "", "offset": 0, "size": 0}}
    client = service(run=run, estimate=estimate, encoders=[], datasets=[], submit={"id": "run_1"}, **facts)
    tab, selection = runs_tab(client), SelectedRun()
    assert tab.estimate(selection) == gr.skip()
    selection.form = tab.open_form({"new": "pretrain"})
    assert "≈ <b>3 min 30 s" in tab.estimate(selection)
    values = {**selection.form.values, "spec": [selection.form.text], "steps": ["0"]}
    drawn = tab.edit(selection, picked(f"start:{json.dumps(values)}"))
    assert "Steps: at least 1." in drawn[tab.form]
    values["steps"] = ["9"]
    drawn = tab.edit(selection, picked(f"start:{json.dumps(values)}"))
    assert (drawn[tab.form], selection.current.id, selection.form) == ("", "run_1", None)
    assert [args[1]["steps"] for name, args, _ in client.calls if name == "submit"] == [9]
    assert tab.edit(selection, picked("start:{}")) == {tab.form: gr.skip()}, "it is closed"


def test_a_watched_run_is_read_on_from_where_the_page_stands(service: Any, run: dict[str, Any]) -> None:
    stored = [line(10), {"step": 15, "phase": "saving"}, line(20)]
    client = service(
        runs={"items": [run]},
        run=run,
        metrics=lambda _, after: [each for each in stored if each["step"] > after],
        logs=lambda _, offset: {"text": "abc"[offset:], "offset": 3, "size": 3},
    )
    tab = runs_tab(client)
    selection = SelectedRun(WatchedRun("run_1"))
    tab.refresh(selection)
    assert [each["step"] for each in selection.curves["run_1"].lines] == [10, 20]
    stored.append(line(30))
    tab.refresh(selection)
    assert [each["step"] for each in selection.curves["run_1"].lines] == [10, 20, 30]
    assert selection.current.log == "abc"
    assert [kwargs["after"] for kwargs in client.arguments_of("metrics")] == [0, 20]


def test_an_ended_run_is_read_once_more_and_then_left_alone(service: Any, run: dict[str, Any]) -> None:
    ended = {**run, "state": "succeeded"}
    client = service(
        runs={"items": [ended]},
        run=ended,
        metrics=[line(10)],
        logs={"text": "", "offset": 0, "size": 0},
        artifacts=[{"name": "eval.json", "bytes": 5}],
    )
    tab = runs_tab(client)
    selection = SelectedRun(WatchedRun("run_1"))
    tab.refresh(selection)
    drawn = tab.refresh(selection)
    assert len(client.arguments_of("metrics")) == len(client.arguments_of("artifacts")) == 1
    assert "eval.json" in str(drawn)


def test_a_run_that_starts_over_forgets_the_old_curve(service: Any, run: dict[str, Any]) -> None:
    client = service(
        runs={"items": [run]}, run={**run, "attempt": 2}, metrics=[line(10)], logs={"text": "", "offset": 0, "size": 0}
    )
    old = WatchedRun("run_1", attempt=1, log="old", offset=3)
    selection = SelectedRun(old, curves={"run_1": RunCurve(1, (line(10), line(90)))})
    runs_tab(client).refresh(selection)
    assert [each["step"] for each in selection.curves["run_1"].lines] == [10]
    assert selection.current.log == ""


def test_buttons_are_shown_where_the_service_takes_them() -> None:
    """The state machine is the service's; what it refuses is not offered, and nothing that it takes is missing."""
    from lcl_core.db.states import ALLOWED, FINISHED, State

    def sources(target: State) -> set[str]:
        return {state.value for state in State if target in ALLOWED[state]}

    offered = {action.verb: set(action.states) for action in RUN_ACTIONS}
    assert offered["cancel"] == (sources(State.CANCELLED) | sources(State.CANCELLING)) - {"cancelling"}
    assert offered["pause"] == (sources(State.PAUSED) | sources(State.PAUSING)) - {"pausing"}
    assert offered["resume"] == {"paused", "failed", "cancelled"}
    assert offered["retry"] == {"failed", "cancelled"}
    assert offered["delete"] == set(FINISHED)
    assert {action.verb for action in RUN_ACTIONS if action.asks} == {"cancel", "delete", "retry"}


@pytest.mark.parametrize(
    ("verb", "changes", "said"),
    [
        ("cancel", {}, "A checkpoint is written first; nothing is lost. Resume goes on from there."),
        ("cancel", {"state": "queued"}, "nothing that was done is deleted"),
        ("retry", {"state": "failed"}, "Curves and checkpoints so far are deleted"),
        ("delete", {"state": "succeeded"}, "removed for good. The encoder that it made stays."),
        ("delete", {"state": "succeeded", "kind": "evaluate"}, "loses the figures of this evaluation"),
    ],
)
def test_what_is_lost_is_said_before_it_is_done(
    service: Any, run: dict[str, Any], verb: str, changes: dict[str, Any], said: str
) -> None:
    now = {**run, **changes}
    facts = {"runs": {"items": [now]}, "metrics": [], "logs": {"text": "", "offset": 0, "size": 0}, "artifacts": []}
    client = service(run=now, **facts, **{verb: None})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    asked = tab.pick(selection, picked(f"{verb}:run_1"))[tab.question]
    assert said in asked
    assert tab.answer(selection, picked("keep:"))[tab.question] == ""
    assert client.arguments_of(verb) == []
    selection.current = WatchedRun("run_2")
    assert tab.answer(selection, picked(f"{verb}:run_1"))[tab.question] == ""
    assert [args for name, args, _ in client.calls if name == verb] == [("run_1",)]


def test_several_runs_are_cancelled_or_deleted_after_one_question(service: Any, run: dict[str, Any]) -> None:
    from api.client import ApiError

    states = {"run_1": "running", "run_2": "queued", "run_3": "failed"}
    runs = {run_id: {**run, "id": run_id, "state": state} for run_id, state in states.items()}
    client = service(
        runs={"items": list(runs.values())}, run=lambda run_id: runs[run_id], metrics=[], artifacts=[], cancel=None,
        logs={"text": "", "offset": 0, "size": 0},
    )  # fmt: skip
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    for run_id in (*states, "run_9", "run_9"):
        drawn = tab.pick(selection, picked(f"check:{run_id}"))[tab.listing]
    assert drawn.count('aria-checked="true" data-pick="check:') == 3
    assert "3 runs chosen" in drawn
    asked = tab.question_before("cancel", sorted(selection.listing.checked))
    assert "Cancel 2 runs?" in asked
    assert "1 run of the chosen cannot be." in asked
    assert 'data-pick="cancel:run_1,run_2"' in asked
    assert client.arguments_of("cancel") == [], "only after the answer"
    tab.answer(selection, picked("cancel:run_1,run_2"))
    assert [args for name, args, _ in client.calls if name == "cancel"] == [("run_1",), ("run_2",)]
    assert selection.listing.checked == {"run_3"}
    client.answers["delete"] = ApiError(409, "conflict", "delete the study first")
    assert "delete the study first" in tab.answer(selection, picked("delete:run_3"))[tab.question]
    assert selection.listing.checked == {"run_3"}, "what was refused stays chosen"
    assert "No chosen run can be" in tab.question_before("cancel", sorted(selection.listing.checked))
    tab.pick(selection, picked("check:"))
    assert selection.listing.checked == set()


def test_a_run_that_was_deleted_is_left(service: Any, run: dict[str, Any]) -> None:
    from api.client import ApiError

    ended = {**run, "id": "run_9", "state": "succeeded"}
    client = service(
        runs={"items": [ended]},
        run=ended,
        metrics=[],
        logs={"text": "", "offset": 0, "size": 0},
        artifacts=[],
        delete=None,
    )
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    tab.answer(selection, picked("delete:run_1"))
    assert selection.current.id is None
    client.answers["delete"] = ApiError(409, "conflict", "delete the study first")
    assert "delete the study first" in tab.answer(selection, picked("delete:run_9"))[tab.question]
