"""A study that is open beside the table, against a service that answers from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.ui.conftest import runs_tab
from ui.tabs.runs import SelectedRun, WatchedRun
from ui.tabs.study_view import WatchedStudy

Json = dict[str, Any]
CURVES = {"value": "loss", "values": ["loss", "lr"], "rows": [{"labels": {}, "points": []}]}


def study(study_id: str = "study_1", state: str = "running") -> Json:
    compute = dict.fromkeys(("seconds", "images_seen", "tokens_seen", "flops", "parameters"))
    row = {"labels": {}, "parameters": {}, "cells": [], "states": {}, "figures": {}, "compute": compute}
    heads = ("IR@5", "TR@5")
    table = {
        "axes": [], "parameters": [], "metrics": [{"name": head, "better": "higher"} for head in heads],
        "rows": [row], "baseline": 0, "baselines": dict.fromkeys(heads, 0), "comparisons": {head: [] for head in heads},
        "pareto": {head: [] for head in heads}, "compute": "seconds",
    }  # fmt: skip
    return {"id": study_id, "name": "mine", "owner": "ada", "state": state, "question": "", "counts": {"running": 1},
            "created_at": "2026-01-01T10:00:00Z", "cells": [], "notes": [], "table": table}  # fmt: skip


@pytest.fixture
def client(service: Any) -> Any:
    return service(
        runs={"items": []},
        studies={"items": [study("study_2"), study("study_1")], "next_cursor": None},
        study=lambda study_id: study(study_id),
        study_curves=lambda study_id, value: CURVES,
        cancel_study=study(),
        resume_study={"not_resumed": [{"id": "run_1", "message": "run_1 has used up its time"}]},
        delete_study=None,
    )


def opened(study_id: str = "study_1") -> SelectedRun:
    return SelectedRun(WatchedRun(), study=WatchedStudy(study_id))


def picked(value: str) -> Any:
    return SimpleNamespace(pick=value)


def test_a_study_opens_beside_the_table_and_by_its_address(client: Any) -> None:
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    drawn = tab.pick(selection, picked("study:study_2"))
    assert drawn[tab.panel].visible is True
    assert "study_2" in drawn[tab.opened]
    request: Any = SimpleNamespace(query_params={"study": "study_1"})
    assert "study_1" in tab.open_address(selection, "null", request)[tab.opened]


def test_the_curves_of_an_ended_study_are_read_once_and_those_that_are_asked_for(client: Any) -> None:
    client.answers["study"] = lambda study_id: study(study_id, "succeeded")
    tab, selection = runs_tab(client), opened()
    for _ in range(3):
        tab.refresh(selection)
    assert len([name for name, *_ in client.calls if name == "study_curves"]) == 1
    tab.pick(selection, picked("curve:lr"))
    drawn = tab.pick(selection, picked("figure:TR@5"))
    assert [args[1] for name, args, _ in client.calls if name == "study_curves"] == ["loss", "lr"]
    assert "Figure: TR@5" in drawn[tab.opened]
    assert (
        tab.pick(selection, picked("figure:<b>"))[tab.opened] == tab.pick(selection, picked("figure:IR@5"))[tab.opened]
    )


def test_a_study_is_stopped_or_removed_after_a_question(client: Any) -> None:
    tab, selection = runs_tab(client), opened()
    for verb, said in (("cancel_study", "writes a checkpoint first"), ("delete_study", "and their encoders stay")):
        assert said in tab.pick(selection, picked(f"{verb}:study_1"))[tab.question]
        assert [name for name, *_ in client.calls if name == verb] == []
        tab.answer(selection, picked(f"{verb}:study_1"))
        assert [args for name, args, _ in client.calls if name == verb] == [("study_1",)]
    assert selection.study.id is None
    assert "used up its time" in tab.pick(opened(), picked("resume_study:study_1"))[tab.question]


def test_a_study_that_cannot_be_shown_says_so(client: Any, away: Exception) -> None:
    client.answers["study"] = away
    tab = runs_tab(client)
    assert "This study cannot be shown" in tab.refresh(opened())[tab.opened]
