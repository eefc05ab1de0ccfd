"""The tab for admins against a service that answers from memory."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from ui.common import PageSelection
from ui.tabs.service import AUDIT_PAGE, ServiceTab, draw_keys, draw_overview, draw_queue, draw_worker_table

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
    def audit(limit: int, cursor: str | None) -> Json:
        start = int(cursor or 0)
        return {"items": [entry(n) for n in range(start, start + limit)], "next_cursor": str(start + limit)}

    return service(
        status=STATUS, workers=[WORKER], runs={"items": [], "next_cursor": None}, keys=[KEY], own_key=KEY,
        audit=audit, revoke_key=None, create_key=lambda *given: {**KEY, "key": "lcl_2.secret"},
    )  # fmt: skip


def test_workers_have_state_slots_and_devices() -> None:
    gpu = {"id": "GPU-1", "name": "H100", "use": "free"}
    busy = {**WORKER, "id": "w2", "current_run": "run_1", "gpus": [gpu]}
    drawn = draw_worker_table([WORKER, busy])
    for part in ("idle", "cpu", 'works on <a href="?run=run_1">run_1</a>', "H100: free", "<td>2</td>"):
        assert part in drawn
    assert "No worker is alive" in draw_worker_table([])


def test_each_run_says_why_it_waits(run: Json) -> None:
    runs = [
        {**run, "state": "queued", "obstacle": {"code": "no_gpu", "message": "no worker <offers> a GPU"}},
        {**run, "state": "queued", "obstacle": None},
        {**run, "state": "waiting", "after": ["run_9"]},
        {**run, "state": "paused"},
    ]
    drawn = draw_queue(runs, more=True)
    for part in ("no worker &lt;offers&gt; a GPU", "next free slot", 'Comes after <a href="?run=run_9">', "resumed",
                 "The newest of each state"):  # fmt: skip
        assert part in drawn


def test_a_run_of_the_queue_has_the_actions_of_its_state(run: Json) -> None:
    def actions(state: str) -> list[str]:
        return re.findall(rf'data-pick="(\w+):{run["id"]}"', draw_queue([{**run, "state": state, "name": "<base>"}]))

    assert [actions(state) for state in ("running", "queued", "waiting")] == [["pause", "cancel"]] * 3
    assert actions("paused") == ["resume", "cancel"]
    assert actions("pausing") == ["cancel"]
    assert actions("cancelling") == []
    assert 'aria-label="Pause &lt;base&gt;"' in draw_queue([{**run, "state": "queued", "name": "<base>"}])


def test_a_run_is_cancelled_from_the_queue_after_a_question_and_paused_without(client: Any, run: Json) -> None:
    client.answers |= {"run": {**run, "state": "running", "name": "base"}, "cancel": {}, "pause": {}}
    tab = ServiceTab(client)
    question, *rest = tab.pick_run_action(picked("cancel:run_1"))
    assert "Cancel base?" in question
    assert "A checkpoint is written first" in question
    assert rest == [gr.skip()] * 3
    assert tab.answer_of_run(picked("keep:"))[0] == ""
    assert client.arguments_of("cancel") == []
    question, *rest = tab.answer_of_run(picked("cancel:run_1"))
    assert question == ""
    assert "Nothing waits" in rest[2], "the queue is fetched anew"
    assert tab.pick_run_action(picked("pause:run_1"))[0] == ""
    assert [call for call in client.calls if call[0] in ("cancel", "pause")] == [
        ("cancel", ("run_1",), {}),
        ("pause", ("run_1",), {}),
    ]


@pytest.mark.parametrize("verb", ["delete", "retry", "submit", "close"])
def test_the_queue_calls_nothing_else(client: Any, verb: str) -> None:
    assert ServiceTab(client).pick_run_action(picked(f"{verb}:run_1"))[0] == ""
    assert client.calls == []


def test_what_the_service_refuses_is_said(client: Any, run: Json) -> None:
    client.answers |= {
        "run": ApiError(404, "not_found", "there is no run 'run_1'"),
        "pause": ApiError(403, "x", "no"),
    }
    assert "there is no run" in ServiceTab(client).pick_run_action(picked("cancel:run_1"))[0]
    assert "no" in ServiceTab(client).pick_run_action(picked("pause:run_1"))[0]


def test_a_check_that_fails_is_named() -> None:
    assert "Not ready" not in draw_overview(STATUS)
    failing = {**STATUS, "checks": {"disk": {"ok": False, "detail": "full"}}}
    assert "disk: full" in draw_overview(failing)
    assert "3 queued" in draw_overview(STATUS)
    assert "failed" not in draw_overview(STATUS)


def test_the_key_in_use_cannot_be_revoked_here() -> None:
    drawn = draw_keys([KEY, {**KEY, "prefix": "lcl_2"}], "lcl_1")
    assert "revoke:lcl_2" in drawn
    assert "revoke:lcl_1" not in drawn
    assert "&lt;ada&gt;" in drawn
    assert "<ada>" not in drawn


def test_no_key_is_revoked_without_a_question(client: Any) -> None:
    tab, shown = ServiceTab(client), PageSelection(AUDIT_PAGE)
    pick = "revoke:lcl_2"
    assert "alertdialog" in tab.show_question(picked(pick))
    tab.answer(shown, picked("keep:"))
    assert client.arguments_of("revoke_key") == []
    assert tab.answer(shown, picked(pick))[0] == ""
    assert len(client.arguments_of("revoke_key")) == 1


def test_a_new_key_is_shown_once_and_a_date_is_a_time(client: Any) -> None:
    tab = ServiceTab(client)
    told, owner = tab.create_key(" ada ", "viewer", "2030-01-31")
    assert "lcl_2.secret" in told
    assert owner == ""
    assert client.calls[-1][1] == ("ada", "viewer", "2030-01-31T00:00:00Z")
    assert not any("lcl_2.secret" in str(part) for part in tab.refresh(PageSelection(AUDIT_PAGE)))
    client.answers["create_key"] = ApiError(422, "invalid_value", "owner: must not be empty", "owner")
    told, owner = tab.create_key("", "viewer", "")
    assert "must not be empty" in told
    assert owner == gr.skip()


def test_older_entries_of_the_audit_log_follow(client: Any) -> None:
    tab, shown = ServiceTab(client), PageSelection(AUDIT_PAGE)
    assert tab.refresh(shown)[-1].count("<tr><td>") == AUDIT_PAGE
    assert tab.show_older(shown).count("<tr><td>") == 2 * AUDIT_PAGE
    client.answers["audit"] = {"items": [entry(1)], "next_cursor": None}
    assert "Show older" not in tab.show_older(shown)


def test_a_part_that_fails_leaves_the_others(client: Any, away: Exception) -> None:
    client.answers["audit"] = away
    *others, audit = ServiceTab(client).refresh(PageSelection(AUDIT_PAGE))
    assert "This cannot be shown" in audit
    assert not any("This cannot be shown" in str(part) for part in others)


def test_only_an_admin_sees_keys_and_audit(client: Any) -> None:
    client.answers["own_key"] = {**KEY, "role": "submitter"}
    assert ServiceTab(client).refresh(PageSelection(AUDIT_PAGE))[-3:] == (gr.update(visible=False), "", "")


def test_nothing_is_fetched_while_another_tab_is_looked_at(client: Any) -> None:
    assert ServiceTab(client).tick(False) == (gr.skip(),) * 3
    assert client.calls == []
