"""The table of runs: order, filters, what a run is judged by; and tags and notes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.ui.conftest import runs_tab
from ui.common import ListPage
from ui.tabs.run_table import (
    RunListing,
    draw_menus,
    draw_run_table,
    final_metric,
    linked_listing,
    parse_tags,
    run_seconds,
    sort_runs,
)
from ui.tabs.runs import SelectedRun, WatchedRun


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
        ({"sort": "metric", "tag": "x", "state": "failed"}, RunListing("metric", tag="x", state="failed")),
        ({"columns": "state,seed", "sort": "-seed"}, RunListing("-seed", ("state", "seed"))),
        ({"name": "clip", "of": "study_1", "kind": "index"}, RunListing(name="clip", of="study_1", kind="index")),
        ({"sort": "moons", "state": "asleep", "kind": "walk", "layout": "table"}, RunListing()),
    ],
)
def test_an_address_names_the_listing(parameters: dict[str, str], listing: RunListing) -> None:
    assert linked_listing(parameters) == listing
    assert linked_listing(listing.address) == listing


def test_a_second_click_turns_an_order_round_and_takes_a_filter_or_column_away() -> None:
    listing = RunListing().changed("sort", "name").changed("tag", "x").changed("column", "seed")
    assert (listing.sort, listing.tag, listing.columns[-1]) == ("name", "x", "seed")
    listing = listing.changed("sort", "name").changed("tag", "x").changed("column", "seed")
    assert listing == RunListing("-name")


def test_names_tags_and_notes_are_text(run: dict[str, Any]) -> None:
    hostile = {**run, "name": "<b>n</b>", "tags": ['"><i>'], "notes": "<script>", "spec": {"seed": "<u>"}}
    listing = RunListing(columns=("tags", "notes", "seed", "<s>"), tag="<i>x")
    study = {"id": "s", "name": "<b>s</b>", "created_at": "2026-01-01T10:00:00Z", "state": "running", "counts": {}}
    drawn = draw_run_table([hostile], [study], run["id"], listing) + draw_menus([hostile], [study], listing)
    drawn += draw_run_table([hostile], [study], run["id"], RunListing())
    assert not any(part in drawn for part in ("<b>n</b>", "<i>", "<script>", "<u>", "<s>", "<b>s</b>"))


def test_hyper_parameters_are_columns_and_runs_of_a_study_are_one_row(run: dict[str, Any]) -> None:
    runs = [
        {**run, "id": f"run_{seed}", "name": f"n{seed}", "spec": {"seed": seed, "optimizer": {"lr": 0.002}}}
        for seed in (3, 20)
    ]
    assert "column:seed" in draw_menus(runs, [], RunListing())
    assert 'data-pick="column:batch' not in draw_menus(runs, [], RunListing()), "they do not differ"
    drawn = draw_run_table(runs, [], None, RunListing("-seed", ("seed",)))
    assert ">20</td>" in drawn
    assert drawn.index(">n20<") < drawn.index(">n3<")
    study = {"id": "study_1", "name": "rates", "created_at": "2026-01-01T09:00:00Z", "state": "running",
             "counts": {"succeeded": 1, "queued": 1}}  # fmt: skip
    runs[0]["study_id"] = "study_1"
    grouped = draw_run_table(runs, [study], None, RunListing())
    assert (">n3<" in grouped, ">n20<" in grouped, "1 of 2 cells" in grouped) == (False, True, True)
    assert "study_1" not in (alone := draw_run_table(runs, [study], None, RunListing(of="study_1")))
    assert ">n3<" in alone


def test_runs_are_found_from_the_first_page_on(service: Any) -> None:
    client = service(runs=lambda **_: {"items": [], "next_cursor": None})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun())
    selection.listing = RunListing(page=ListPage(("c",)))
    tab.list_named(selection, "clip")
    event: Any = SimpleNamespace(pick="state:failed")
    tab.pick(selection, event)
    asked = client.arguments_of("runs")[-1]
    assert (asked["name"], asked["state"], asked["cursor"], asked["study"]) == ("clip", "failed", None, None)
    assert len(client.arguments_of("runs")) == 2
    tab.list_named(selection, "clip ")
    assert len(client.arguments_of("runs")) == 2, "nothing has changed"


def test_tags_and_notes_are_saved(service: Any, run: dict[str, Any], away: Exception) -> None:
    client = service(annotate=run)
    tab = runs_tab(client)
    values = {"run": ["run_1"], "tags": ["b, a  b"], "notes": [" why \r\n"], "changed": [""]}
    assert "Saved" in tab.annotate(json.dumps(values))
    assert client.arguments_of("annotate") == [{"tags": ["a", "b"], "notes": "why"}]
    assert parse_tags(" ,") == []
    client.answers["annotate"] = away
    assert "no answer" in tab.annotate(json.dumps(values))
