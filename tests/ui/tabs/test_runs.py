"""Several runs beside the selected one: what is offered, fetched, and left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from tests.ui.conftest import runs_tab
from ui.charts import METRIC_LABELS
from ui.tabs.run_table import RunListing
from ui.tabs.runs import ComparisonChoice, SelectedRun, WatchedRun


def line(step: int, loss: float = 5.0) -> dict[str, Any]:
    return {"step": step, "images_seen": 128 * step, "loss": loss, "contrastive_loss": 1.0, "generation_loss": 2.0}


def page_service(service: Any, *runs: dict[str, Any], stored: dict[str, list[dict[str, Any]]]) -> Any:
    """A service with these runs and their lines of metrics."""
    by_id = {run["id"]: run for run in runs}
    return service(
        runs={"items": list(runs)},
        run=lambda run_id: by_id[run_id],
        metrics=lambda run_id, after: [each for each in stored[run_id] if each["step"] > after],
        logs={"text": "", "offset": 0, "size": 0},
    )


def test_two_runs_are_drawn_in_one_chart_and_read_on_while_they_move(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_other2", "name": "second"}
    stored = {"run_1": [line(10, 4.0), line(20, 3.0)], "run_other2": [line(10, 6.0), line(20, 5.5)]}
    client = page_service(service, run, other, stored=stored)
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    drawn = tab.compare(selection, ["run_other2"], ["loss"], "step")[tab.curves]
    assert "first · run_1: 4.000 at 10, 3.000 at 20; second · other2: 6.000 at 10, 5.500 at 20" in drawn
    stored["run_other2"].append(line(30, 5.0))
    drawn = tab.refresh(selection)[tab.curves]
    assert "5.000 at 30" in drawn
    requested = [(args[0], kwargs["after"]) for name, args, kwargs in client.calls if name == "metrics"]
    assert requested == [("run_1", 0), ("run_other2", 0), ("run_1", 20), ("run_other2", 20)]


def test_metric_and_axis_are_the_visitors(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2"}
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    tab, selection = runs_tab(page_service(service, run, other, stored=stored)), SelectedRun(WatchedRun("run_1"))
    drawn = tab.compare(selection, ["run_2"], ["contrastive_loss"], "images_seen")[tab.curves]
    assert "Contrastive loss over images seen" in drawn
    assert "1.000 at 2,560" in drawn
    plain = tab.compare(selection, [], ["contrastive_loss"], "images_seen")[tab.curves]
    assert "lcl-overlay" not in plain
    assert "Generation loss" in plain


def test_an_ended_run_is_read_once_and_one_that_starts_over_anew(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2", "state": "succeeded"}
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    client = page_service(service, run, other, stored=stored)
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"), comparison=ComparisonChoice(("run_2",)))
    for _ in range(3):
        tab.refresh(selection)
    assert [args[0] for name, args, _ in client.calls if name == "metrics"].count("run_2") == 1
    other.update(state="running", attempt=2)
    stored["run_2"] = [line(5)]
    tab.refresh(selection)
    assert [each["step"] for each in selection.curves["run_2"].lines] == [5]


def linked(selection: SelectedRun) -> dict[str, str]:
    """What the address says of the comparison."""
    return selection.comparison.address


def test_several_metrics_have_a_panel_each_and_none_means_all(service: Any, run: dict[str, Any]) -> None:
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    tab, selection = (
        runs_tab(page_service(service, run, {**run, "id": "run_2"}, stored=stored)),
        SelectedRun(WatchedRun("run_1")),
    )
    drawn = tab.compare(selection, ["run_2"], ["loss", "contrastive_loss", "lr"], "step")[tab.curves]
    assert drawn.count("<figure") == 2
    assert drawn.count("Runs in the chart") == 1
    assert "No curve yet: Learning rate." in drawn
    assert linked(selection)["metric"] == "loss,contrastive_loss,lr"
    every = tab.compare(selection, ["run_2"], [], "step")[tab.curves]
    recorded = [words for name, words in METRIC_LABELS.items() if name in line(10) or name == "loss"]
    assert [words for words in METRIC_LABELS.values() if f"<span>{words}</span>" in every] == recorded
    assert linked(selection) == {"with": "run_2", "metric": "all", "over": ""}


def test_an_address_has_its_panels(service: Any, run: dict[str, Any]) -> None:
    tab = runs_tab(page_service(service, run, {**run, "id": "run_2"}, stored={"run_1": [], "run_2": []}))
    for named, metrics in (("all", ()), ("lr,taste,loss", ("loss", "lr")), ("taste", ("loss",)), ("", ("loss",))):
        selection = SelectedRun(WatchedRun("run_1"))
        tab.comparison.open_linked(selection, {"with": "run_2", "metric": named})
        assert tuple(selection.comparison.metrics) == metrics, named


def test_an_address_that_compares_nonsense_compares_nothing(service: Any, run: dict[str, Any]) -> None:
    tab, selection = runs_tab(page_service(service, run, stored={"run_1": []})), SelectedRun(WatchedRun("run_1"))
    tab.comparison.open_linked(selection, {"with": ",", "metric": "taste", "over": "moons"})
    assert selection.comparison == ComparisonChoice()


def test_what_can_be_chosen_are_pre_trainings_and_an_open_list_is_left_alone(service: Any, run: dict[str, Any]) -> None:
    other, index = {**run, "id": "run_2", "name": None}, {**run, "id": "run_3", "kind": "index"}
    tab = runs_tab(page_service(service, run, other, index, stored={"run_1": [], "run_2": []}))
    selection = SelectedRun(WatchedRun("run_1"))
    offered = tab.refresh(selection)[tab.comparison.others]
    assert [value for _, value in offered.choices] == ["run_1", "run_2"]
    assert offered.choices[1][0] == "Pre-train · run_2"
    assert tab.refresh(selection)[tab.comparison.others] == gr.skip()


def test_a_run_that_is_gone_says_so_and_the_rest_is_drawn(service: Any, run: dict[str, Any]) -> None:
    from api.client import ApiError

    client = page_service(service, run, stored={"run_1": [line(10), line(20)]})
    own = client.answers["run"]

    def find(run_id: str) -> dict[str, Any]:
        if run_id == "run_gone":
            raise ApiError(404, "not_found", "there is no run 'run_gone'")
        return own(run_id)

    client.answers["run"] = find
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"), comparison=ComparisonChoice(("run_gone",)))
    drawn = tab.refresh(selection)[tab.curves]
    assert "run_gone" in drawn
    assert "5.000 at 20" in drawn


def test_beside_a_run_of_another_kind_nothing_is_compared(service: Any, run: dict[str, Any]) -> None:
    index = {**run, "id": "run_3", "kind": "index"}
    client = page_service(service, index, run, stored={"run_1": [line(10), line(20)], "run_3": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_3"), comparison=ComparisonChoice(("run_1",)))
    assert tab.refresh(selection)[tab.curves] == ""


def test_notes_are_saved_to_the_run_whose_fields_they_stand_in(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2"}
    client = page_service(service, run, other, stored={"run_1": [], "run_2": []})
    client.answers["annotate"] = lambda run_id, **_: {**run, "id": run_id}
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    tab.refresh(selection)

    def press_save(_: str, after: int) -> list[Any]:
        """While the second run is fetched; its tags and notes are not in the fields yet."""
        tab.annotate(selection, "first", "of the first run")
        return []

    client.answers["metrics"] = press_save
    drawn = tab.pick(selection, SimpleNamespace(pick="run:run_2"))
    assert (drawn[tab.tags], drawn[tab.notes]) == ("", "")
    tab.annotate(selection, "second", "")
    assert [args for name, args, _ in client.calls if name == "annotate"] == [("run_1",), ("run_2",)]


def test_a_run_whose_log_cannot_be_read_is_shown(service: Any, run: dict[str, Any]) -> None:
    ended = {**run, "state": "failed", "reason": {"code": "crash", "message": "it <broke>"}}
    client = page_service(service, ended, stored={"run_1": [line(10), line(20)]})
    client.answers |= {"artifacts": [], "logs": ApiError(503, "artifacts_pending", "its files are on their way")}
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    drawn = tab.refresh(selection)
    assert ("it &lt;broke&gt;" in drawn[tab.head], "on their way" in drawn[tab.details]) == (True, True)
    assert "Contrastive loss" in drawn[tab.curves]
    client.answers["logs"] = {"text": "Traceback", "offset": 9, "size": 9}
    drawn = tab.refresh(selection)
    assert ("Traceback" in drawn[tab.details], "on their way" in drawn[tab.details]) == (True, False), (
        "it is read until it is there"
    )
    tab.refresh(selection)
    assert len(client.arguments_of("logs")) == 2


def test_of_a_long_log_the_end_is_shown(service: Any, run: dict[str, Any]) -> None:
    stored, chunk = "x" * 3000 + "é" * 1000 + "Traceback\n", 1000

    def logs(run_id: str, offset: int) -> dict[str, Any]:
        data = stored.encode()
        part = data[offset : offset + (chunk if offset == 0 else len(data))]
        return {"text": part.decode(errors="replace"), "offset": offset + len(part), "size": len(data)}

    client = page_service(service, {**run, "state": "failed"}, stored={"run_1": []})
    client.answers |= {"artifacts": [], "logs": logs}
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ui.tabs.runs.MAX_LOG_CHARACTERS", 500)
        patch.setattr("ui.tabs.runs.MAX_LOG_BYTES", 2000)
        drawn = tab.refresh(selection)[tab.details]
    assert selection.current.log == stored[-500:]
    assert [kwargs["offset"] for kwargs in client.arguments_of("logs")] == [0, len(stored.encode()) - 2000]
    assert "“lcl runs logs run_1” prints all of it" in drawn


def pages_of_runs(run: dict[str, Any], cursor: str | None, **_: Any) -> dict[str, Any]:
    """Three pages with a run each."""
    number = int(cursor or 1)
    return {"items": [{**run, "id": f"run_{number}"}], "next_cursor": str(number + 1) if number < 3 else None}


def test_older_runs_are_on_further_pages(service: Any, run: dict[str, Any]) -> None:
    client = page_service(service, run, stored={"run_1": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    assert "page:older" not in tab.refresh(selection)[tab.listing]
    client.answers["runs"] = lambda **query: pages_of_runs(run, **query)

    def pressed(*directions: str) -> str:
        for direction in directions:
            drawn = tab.pick(selection, SimpleNamespace(pick=f"page:{direction}"))[tab.listing]
        return drawn

    assert "Page 1" in tab.refresh(selection)[tab.listing]
    drawn = pressed("older", "older")
    assert "Page 3" in drawn
    assert 'data-pick="run:run_3"' in drawn
    assert pressed("older") == drawn, "the last page"
    assert tab.refresh(selection)[tab.listing] == drawn, "a tick keeps the page"
    assert "Page 2" in pressed("newer")
    assert 'data-pick="run:run_1"' in pressed("newer", "newer")


def test_a_list_says_that_no_run_matches(service: Any, run: dict[str, Any]) -> None:
    client = page_service(service, run, stored={"run_1": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun())
    client.answers["runs"] = {"items": [], "next_cursor": None}
    assert "No runs yet" in tab.refresh(selection)[tab.listing]
    selection.listing = RunListing(tag="kept")
    assert "No run matches" in tab.refresh(selection)[tab.listing]


def answered(verb: str, *refusals: ApiError | None, service: Any, run: dict[str, Any]) -> tuple[str, list[str]]:
    """What is said after so many runs, of which some are refused; and those that stay chosen."""
    runs = {f"run_{number}": refusal for number, refusal in enumerate(refusals, 1)}
    client = page_service(service, *({**run, "id": each} for each in runs), stored={each: [] for each in runs})

    def act(run_id: str) -> None:
        if (refusal := runs[run_id]) is not None:
            raise refusal

    client.answers[verb] = act
    selection = SelectedRun(WatchedRun("run_1"), listing=RunListing(checked=frozenset(runs)))
    event: Any = SimpleNamespace(pick=f"{verb}:{','.join(runs)}")
    tab = runs_tab(client)
    said = tab.answer(selection, event)[tab.refusal]
    return said, sorted(selection.listing.checked)


def test_after_another_refusal_the_rest_of_the_runs_stays(service: Any, run: dict[str, Any], away: Exception) -> None:
    said, chosen = answered("delete", None, away, None, service=service, run=run)
    assert "2 of 3 runs were not deleted" in said
    assert chosen == ["run_2", "run_3"]


def test_what_is_no_longer_listed_is_not_chosen_any_more(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2", "name": "second", "state": "failed"}
    client = page_service(service, run, other, stored={"run_1": [], "run_2": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    for run_id in ("run_1", "run_2"):
        tab.pick(selection, SimpleNamespace(pick=f"check:{run_id}"))
    client.answers["runs"] = {"items": [other], "next_cursor": None}
    assert "1 run chosen" in tab.refresh(selection)[tab.listing]
    asked = tab.draw_question_of_many(selection, "delete")
    assert ('data-pick="delete:run_2"' in asked, "second" in asked, "Delete 1 run?" in asked) == (True, True, True)
    client.answers["run"] = ApiError(404, "not_found", "no such run")
    asked = tab.draw_question_of_many(selection, "delete")
    assert "No chosen run can be" in asked
