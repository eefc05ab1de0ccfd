"""The tab for admins against a service that answers from memory."""

from __future__ import annotations

import json
import re
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.tabs.service import ServiceTab, draw_keys, draw_queue, draw_state, draw_worker_table

Json = dict[str, Any]
KEY: Json = {"prefix": "lcl_1", "owner": "<ada>", "role": "admin", "created_at": "2026-01-01T10:00:00Z",
             "last_used": None, "expires": None}  # fmt: skip
STATUS: Json = {"version": "1.2", "database": "sqlite", "workers": 1, "slots": 2, "runs": {"queued": 3, "failed": 0},
                "checks": {"broker": {"ok": True, "detail": "fine"}, "disk": {"ok": True, "detail": ""}}}  # fmt: skip
WORKER: Json = {"id": "w1", "host": "here", "slots": 2, "devices": ["cpu"], "gpus": [], "current_run": None,
                "started_at": "2026-01-01T10:00:00Z", "seen_at": "2026-01-01T10:00:00Z"}  # fmt: skip


def entry(number: int) -> Json:
    return {"at": "2026-01-01T10:00:00.123Z", "owner": "ada", "prefix": "lcl_1", "action": "runs.cancel",
            "object": f"run_{number}"}  # fmt: skip


def picked(value: str) -> Any:
    return type("Event", (), {"pick": value})()


@pytest.fixture
def client(service: Any) -> Any:
    return service(
        status=STATUS, workers=[WORKER], runs={"items": []}, keys=[KEY], own_key=KEY, audit={"items": [entry(1)]},
        revoke_key=None, create_key=lambda *given: {**KEY, "key": "lcl_2.secret"},
    )  # fmt: skip


def test_workers_have_state_slots_and_devices() -> None:
    gpu = {"id": "GPU-1", "name": "H100", "use": "free"}
    busy = {**WORKER, "id": "w2", "current_run": "run_1", "gpus": [gpu]}
    drawn = draw_worker_table([WORKER, busy])
    for part in ("idle", "cpu", 'works on <a href="?run=run_1">run_1</a>', "H100: free", "<td>2</td>"):
        assert part in drawn
    assert "1 worker busy · 1 worker idle · 3 runs waiting" in draw_state(STATUS, [WORKER, busy])


def test_each_run_says_why_it_waits(run: Json) -> None:
    runs = [
        {**run, "state": "queued", "obstacle": {"code": "no_gpu", "message": "no worker <offers> a GPU"}},
        {**run, "state": "queued", "obstacle": None},
        {**run, "state": "waiting", "after": ["run_9"]},
        {**run, "state": "paused"},
    ]
    drawn = draw_queue(runs, 70)
    for part in ("no worker &lt;offers&gt; a GPU", "next free slot", 'Comes after <a href="?run=run_9">', "resumed",
                 "4 of 70"):  # fmt: skip
        assert part in drawn


def test_a_run_of_the_queue_has_the_actions_of_its_state(run: Json) -> None:
    def actions(state: str) -> list[str]:
        drawn = draw_queue([{**run, "state": state, "name": "<base>"}], 1)
        return re.findall(rf'data-pick="([\w-]+):{run["id"]}"', drawn)

    assert [actions(state) for state in ("running", "queued", "waiting")] == [["pause", "ask-cancel"]] * 3
    assert actions("paused") == ["resume", "ask-cancel"]
    assert actions("pausing") == ["ask-cancel"]
    assert actions("cancelling") == []
    assert 'aria-label="Pause &lt;base&gt;"' in draw_queue([{**run, "state": "queued", "name": "<base>"}], 1)


def test_a_run_is_cancelled_from_the_queue_after_a_question_and_paused_without(client: Any, run: Json) -> None:
    client.answers |= {"run": {**run, "state": "running", "name": "base"}, "cancel": {}, "pause": {}}
    tab = ServiceTab(client)
    question, *rest = tab.act(picked("ask-cancel:run_1"))
    assert "Cancel base?" in question
    assert "A checkpoint is written first" in question
    assert rest == [gr.skip()] * 2
    assert tab.act(picked("keep:"))[0] == ""
    assert client.arguments_of("cancel") == []
    said, shown, _ = tab.act(picked("cancel:run_1"))
    assert (said, "1 worker idle" in shown) == ("", True), "the queue is fetched anew"
    assert tab.act(picked("pause:run_1"))[0] == ""
    assert [call for call in client.calls if call[0] in ("cancel", "pause")] == [
        ("cancel", ("run_1",), {}),
        ("pause", ("run_1",), {}),
    ]


@pytest.mark.parametrize("verb", ["delete", "retry", "submit", "close"])
def test_the_queue_changes_nothing_else(client: Any, verb: str) -> None:
    assert ServiceTab(client).act(picked(f"{verb}:run_1"))[0] == ""


def test_what_the_service_refuses_is_said(client: Any) -> None:
    client.answers |= {
        "run": ApiError(404, "not_found", "there is no run 'run_1'"),
        "pause": ApiError(403, "x", "no"),
    }
    assert "there is no run" in ServiceTab(client).act(picked("ask-cancel:run_1"))[0]
    assert "no" in ServiceTab(client).act(picked("pause:run_1"))[0]


def test_a_check_that_fails_is_named() -> None:
    assert "<b>Ready</b>" in draw_state(STATUS, [WORKER])
    failing = {**STATUS, "checks": {"disk": {"ok": False, "detail": "full"}}, "runs": {}}
    drawn = draw_state(failing, [])
    for part in ("<b>Not ready</b>", "disk: full", "nothing waits"):
        assert part in drawn


def test_runs_are_asked_for_in_states_that_some_are_in(client: Any) -> None:
    ServiceTab(client).refresh()
    assert [query["state"] for query in client.arguments_of("runs")] == ["queued"]


def test_the_key_in_use_cannot_be_revoked_here() -> None:
    drawn = draw_keys([KEY, {**KEY, "prefix": "lcl_2"}], "lcl_1")
    assert "revoke:lcl_2" in drawn
    assert "revoke:lcl_1" not in drawn
    assert "&lt;ada&gt;" in drawn
    assert "<ada>" not in drawn


def test_no_key_is_revoked_without_a_question(client: Any) -> None:
    tab = ServiceTab(client)
    assert "alertdialog" in tab.act(picked("ask-revoke:lcl_2"))[0]
    tab.act(picked("keep:"))
    assert client.arguments_of("revoke_key") == []
    assert tab.act(picked("revoke:lcl_2"))[0] == ""
    assert len(client.arguments_of("revoke_key")) == 1


def test_a_new_key_is_shown_once(client: Any) -> None:
    tab = ServiceTab(client)
    form = picked(f"create:{json.dumps({'text': 'ada', 'button': 'viewer'})}")
    said, *shown = tab.act(form)
    assert "lcl_2.secret" in said
    assert ("create_key", ("ada", "viewer"), {}) in client.calls
    assert "lcl_2.secret" not in "".join(shown)
    client.answers["create_key"] = ApiError(422, "invalid_value", "owner: must not be empty", "owner")
    assert "must not be empty" in tab.act(form)[0]


def test_a_part_that_fails_leaves_the_others(client: Any, away: Exception) -> None:
    client.answers["audit"] = away
    shown, for_admins = ServiceTab(client).refresh()
    assert ("This cannot be shown" in for_admins, "1 key" in for_admins) == (True, True)
    assert "This cannot be shown" not in shown


def test_only_an_admin_sees_keys_and_audit(client: Any) -> None:
    assert "runs.cancel" in ServiceTab(client).refresh()[1]
    client.answers["own_key"] = {**KEY, "role": "submitter"}
    assert ServiceTab(client).refresh()[1] == ""


def test_nothing_is_fetched_while_another_tab_is_looked_at(client: Any) -> None:
    assert ServiceTab(client).tick(False) == gr.skip()
    assert client.calls == []
