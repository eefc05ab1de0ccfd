"""The table of runs: order, filters, what a run is judged by; and tags and notes that are saved once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ui.common import ListPage
from ui.tabs.run_table import (
    RunListing,
    draw_listing_controls,
    draw_run_table,
    final_metric,
    linked_listing,
    parse_tags,
    run_seconds,
    sort_runs,
)
from ui.tabs.runs import RunsTab, SelectedRun, WatchedRun


def evaluation(run: dict[str, Any], value: float) -> dict[str, Any]:
    row = {"task": "retrieval", "split": "test", "variant": "captions[0]", "metric": "IR@5", "value": value}
    return {**run, "kind": "evaluate", "state": "succeeded", "progress": None, "result": {"rows": [row]}}


def test_runs_are_judged_by_their_last_loss_or_their_main_metric(run: dict[str, Any]) -> None:
    assert final_metric({**run, "progress": {"contrastive_loss": 1.0, "generation_loss": 2.0}}) == ("loss", 3.0)
    assert final_metric({**run, "result": {"final": {"loss": 2.5}}, "progress": {"loss": 9.0}}) == ("loss", 2.5)
    assert final_metric(evaluation(run, 0.2)) == ("IR@5", 0.2)
    assert final_metric({**run, "kind": "index", "progress": {"loss": 1.0}}) is None


def test_rows_without_a_value_come_last_in_either_order(run: dict[str, Any]) -> None:
    runs = [
        {**run, "id": name, "progress": {"loss": loss} if loss else None}
        for name, loss in zip("abc", (2, 0, 1), strict=True)
    ]
    assert [each["id"] for each in sort_runs(runs, "metric")] == ["c", "a", "b"]
    assert [each["id"] for each in sort_runs(runs, "-metric")] == ["a", "c", "b"]


def test_a_duration_ends_with_the_run(run: dict[str, Any]) -> None:
    assert run_seconds({**run, "finished_at": "2026-01-01T10:01:05Z", "state": "failed"}) == 60
    assert run_seconds({**run, "started_at": None}) is None
    assert run_seconds({**run, "state": "paused"}) is None


@pytest.mark.parametrize(
    ("parameters", "listing"),
    [
        ({"layout": "table", "sort": "metric", "tag": "x"}, RunListing("table", "metric", "x")),
        (
            {"layout": "table", "sort": "metric", "tag": "x", "state": "failed"},
            RunListing("table", "metric", "x", "failed"),
        ),
        ({"layout": "", "sort": "", "tag": "", "name": "clip"}, RunListing(name="clip")),
        ({"layout": "sideways", "sort": "-colour", "state": "lost"}, RunListing()),
        ({}, RunListing()),
    ],
)
def test_an_address_names_the_listing(parameters: dict[str, str], listing: RunListing) -> None:
    assert linked_listing(parameters) == listing
    assert {**parameters, **listing.address} == parameters or listing == RunListing()


def test_a_second_click_turns_an_order_round_and_takes_a_filter_away() -> None:
    listing = RunListing().changed("sort", "metric")
    assert listing.sort == "metric"
    assert listing.changed("sort", "metric").sort == "-metric"
    assert listing.changed("tag", "x").changed("tag", "x").tag == ""


def test_names_tags_and_notes_are_text(run: dict[str, Any]) -> None:
    hostile = {**run, "name": "<b>n</b>", "tags": ['"><i>'], "notes": "<script>\n" + 200 * "x"}
    drawn = draw_run_table([hostile], run["id"], RunListing("table")) + draw_listing_controls([hostile], RunListing())
    assert not any(part in drawn for part in ("<b>n</b>", "<i>", "<script>"))
    assert "x…" in drawn


def test_runs_of_one_state_are_listed_from_the_first_page_on(service: Any, run: dict[str, Any]) -> None:
    client = service(runs=lambda **_: {"items": [], "next_cursor": None})
    tab, selection = RunsTab(client), SelectedRun(WatchedRun())
    assert "Filter by state" not in tab.refresh(selection)[0], "there are no runs"
    selection.listing = RunListing(page=ListPage(("2",)))
    drawn = tab.select(selection, "all", SimpleNamespace(pick="state:failed"))[0]  # type: ignore[arg-type]
    (query,) = client.arguments_of("runs")[1:]
    assert (query["state"], query["cursor"]) == ("failed", None)
    assert "No run matches" in drawn
    assert 'data-pick="state:failed" aria-checked="true">Failed<' in drawn
    assert "&quot;state&quot;: &quot;failed&quot;" in drawn, "the address has it"
    assert ("state:cancelling" in drawn, "state:" in draw_listing_controls([run], RunListing())) == (False, True)
    tab.select(selection, "all", SimpleNamespace(pick="state:"))  # type: ignore[arg-type]
    assert client.arguments_of("runs")[-1]["state"] is None


def test_runs_are_listed_by_a_part_of_their_name_from_the_first_page_on(service: Any) -> None:
    client = service(runs=lambda **_: {"items": [], "next_cursor": None})
    tab, selection = RunsTab(client), SelectedRun(WatchedRun())
    selection.listing = RunListing(page=ListPage(("2",)))
    drawn = tab.list_named(selection, "all", " clip ")[0]
    (query,) = client.arguments_of("runs")
    assert (query["name"], query["cursor"]) == ("clip", None)
    assert "No run matches" in drawn
    assert "&quot;name&quot;: &quot;clip&quot;" in drawn, "the address has it"
    opened: Any = SimpleNamespace(query_params={"tab": "runs", "name": "emu"})
    assert tab.open_address(selection, "all", opened)[:2] == ("all", "emu"), "the field is filled in"
    assert client.arguments_of("runs")[-1]["name"] == "emu"
    tab.list_named(selection, "all", "")
    assert client.arguments_of("runs")[-1]["name"] is None


def test_the_service_filters_and_an_edit_is_saved_and_not_overwritten(service: Any, run: dict[str, Any]) -> None:
    client = service(
        runs=lambda **_: {"items": [run], "next_cursor": None},
        run=lambda _: run,
        metrics=[],
        logs={"text": "", "offset": 0, "size": 0},
        annotate=lambda run_id, tags, notes: {**run, "tags": tags, "notes": notes},
    )
    tab, selection = RunsTab(client), SelectedRun(WatchedRun("run_1"))
    tab.select(selection, "all", SimpleNamespace(pick="tag:kept"))  # type: ignore[arg-type]
    assert client.arguments_of("runs")[-1]["tag"] == "kept"
    edited = tab.refresh(selection)[-5:-2]
    assert edited == (gr.skip(),) * 3, "filled in by the refresh before"
    assert "Saved" in tab.annotate(selection, "b, a  b", " why \n")
    assert client.arguments_of("annotate") == [{"tags": ["a", "b"], "notes": "why"}]
    assert tab.refresh(selection)[-5:-2] == edited, "what was typed since is kept"
    assert parse_tags(" ,") == []
