"""Several runs beside the selected one: what is offered, fetched, and left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.client import ApiError
from tests.ui.conftest import runs_tab
from ui.tabs.run_comparison import ComparisonChoice, linked_choice
from ui.tabs.run_table import RunListing
from ui.tabs.runs import SelectedRun, WatchedRun


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


def compared(*others: str, metrics: tuple[str, ...] = ("loss",), axis: str = "step") -> SelectedRun:
    return SelectedRun(WatchedRun("run_1"), comparison=ComparisonChoice(others, metrics, axis))


def test_two_runs_are_drawn_in_one_chart_and_read_on_while_they_move(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_other2", "name": "second"}
    stored = {"run_1": [line(10, 4.0), line(20, 3.0)], "run_other2": [line(10, 6.0), line(20, 5.5)]}
    client = page_service(service, run, other, stored=stored)
    tab, selection = runs_tab(client), compared()
    assert 'data-pick="with:run_other2"' in tab.refresh(selection)[tab.opened]
    drawn = tab.pick(selection, SimpleNamespace(pick="with:run_other2"))[tab.opened]
    assert "first · run_1: 4.000 at 10, 3.000 at 20; second · other2: 6.000 at 10, 5.500 at 20" in drawn
    stored["run_other2"].append(line(30, 5.0))
    assert "5.000 at 30" in tab.refresh(selection)[tab.opened]
    requested = [(args[0], kwargs["after"]) for name, args, kwargs in client.calls if name == "metrics"]
    assert requested[1:] == [("run_1", 20), ("run_other2", 0), ("run_1", 20), ("run_other2", 20)]


def test_metric_and_axis_are_the_visitors(service: Any, run: dict[str, Any]) -> None:
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    tab = runs_tab(page_service(service, run, {**run, "id": "run_2"}, stored=stored))
    drawn = tab.refresh(compared("run_2", metrics=("contrastive_loss",), axis="images_seen"))[tab.opened]
    assert "Contrastive loss over images seen" in drawn
    assert "1.000 at 2,560" in drawn
    plain = tab.refresh(compared(metrics=("contrastive_loss",), axis="images_seen"))[tab.opened]
    assert "lcl-overlay" not in plain
    assert "Generation loss" in plain


def test_an_ended_run_is_read_once_and_one_that_starts_over_anew(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2", "state": "succeeded"}
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    client = page_service(service, run, other, stored=stored)
    tab, selection = runs_tab(client), compared("run_2")
    for _ in range(3):
        tab.refresh(selection)
    assert [args[0] for name, args, _ in client.calls if name == "metrics"].count("run_2") == 1
    other.update(state="running", attempt=2)
    stored["run_2"] = [line(5)]
    tab.refresh(selection)
    assert [each["step"] for each in selection.curves["run_2"].lines] == [5]


def test_several_metrics_have_a_panel_each(service: Any, run: dict[str, Any]) -> None:
    stored = {"run_1": [line(10), line(20)], "run_2": [line(10), line(20)]}
    tab = runs_tab(page_service(service, run, {**run, "id": "run_2"}, stored=stored))
    drawn = tab.refresh(compared("run_2", metrics=("loss", "contrastive_loss", "lr")))[tab.opened]
    assert drawn.partition('id="run-details"')[0].count("<figure") == 2
    assert drawn.count("Runs in the chart") == 1
    assert "No curve yet: Learning rate." in drawn


@pytest.mark.parametrize(
    ("address", "choice"),
    [
        ({"with": "run_2,run_2", "metric": "lr,taste,loss"}, ComparisonChoice(("run_2",), ("loss", "lr"))),
        ({"with": ",", "metric": "taste", "over": "moons"}, ComparisonChoice()),
        ({"with": "run_2", "over": "images_seen"}, ComparisonChoice(("run_2",), axis="images_seen")),
    ],
)
def test_an_address_names_the_comparison(address: dict[str, str], choice: ComparisonChoice) -> None:
    assert linked_choice(address) == choice
    assert linked_choice({name: value for name, value in choice.address.items() if value}) == choice


def test_a_second_click_takes_a_run_or_metric_away() -> None:
    choice = ComparisonChoice().changed("with", "run_2").changed("metric", "lr").changed("over", "images_seen")
    assert choice == ComparisonChoice(("run_2",), ("loss", "lr"), "images_seen")
    choice = choice.changed("with", "run_2").changed("metric", "lr").changed("over", "moons").changed("metric", "<b>")
    assert choice == ComparisonChoice((), ("loss",), "images_seen")


def test_a_run_that_is_gone_says_so_and_the_rest_is_drawn(service: Any, run: dict[str, Any]) -> None:
    client = page_service(service, run, stored={"run_1": [line(10), line(20)]})
    own = client.answers["run"]

    def find(run_id: str) -> dict[str, Any]:
        if run_id == "run_gone":
            raise ApiError(404, "not_found", "there is no run 'run_gone'")
        return own(run_id)

    client.answers["run"] = find
    tab, selection = runs_tab(client), compared("run_gone")
    drawn = tab.refresh(selection)[tab.opened]
    assert "Not compared: run_gone." in drawn
    assert "5.000 at 20" in drawn


def test_beside_a_run_of_another_kind_nothing_is_compared(service: Any, run: dict[str, Any]) -> None:
    index = {**run, "id": "run_3", "kind": "index"}
    client = page_service(service, index, run, stored={"run_1": [line(10), line(20)], "run_3": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_3"), comparison=ComparisonChoice(("run_1",)))
    assert "<figure" not in tab.refresh(selection)[tab.opened]


def test_a_run_whose_log_cannot_be_read_is_shown(service: Any, run: dict[str, Any]) -> None:
    ended = {**run, "state": "failed", "reason": {"code": "crash", "message": "it <broke>"}}
    client = page_service(service, ended, stored={"run_1": [line(10), line(20)]})
    client.answers |= {"artifacts": [], "logs": ApiError(503, "artifacts_pending", "its files are on their way")}
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    drawn = tab.refresh(selection)[tab.opened]
    assert all(words in drawn for words in ("it &lt;broke&gt;", "on their way", "Contrastive loss"))
    client.answers["logs"] = {"text": "Traceback", "offset": 9, "size": 9}
    drawn = tab.refresh(selection)[tab.opened]
    assert ("Traceback" in drawn, "on their way" in drawn) == (True, False), "it is read until it is there"
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
        drawn = tab.refresh(selection)[tab.opened]
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
    said = tab.answer(selection, event)[tab.question]
    return said, sorted(selection.listing.checked)


def test_after_another_refusal_the_rest_of_the_runs_stays(service: Any, run: dict[str, Any], away: Exception) -> None:
    said, chosen = answered("delete", None, away, None, service=service, run=run)
    assert "1 of 3 runs: delete" in said
    assert chosen == ["run_2", "run_3"]


def test_what_is_no_longer_listed_is_not_chosen_any_more(service: Any, run: dict[str, Any]) -> None:
    other = {**run, "id": "run_2", "name": "second", "state": "failed"}
    client = page_service(service, run, other, stored={"run_1": [], "run_2": []})
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    for run_id in ("run_1", "run_2"):
        tab.pick(selection, SimpleNamespace(pick=f"check:{run_id}"))
    client.answers["runs"] = {"items": [other], "next_cursor": None}
    assert "1 run chosen" in tab.refresh(selection)[tab.listing]
    asked = tab.question_before("delete", sorted(selection.listing.checked))
    assert ('data-pick="delete:run_2"' in asked, "Delete second?" in asked) == (True, True)
    client.answers["run"] = ApiError(404, "not_found", "no such run")
    asked = tab.question_before("delete", sorted(selection.listing.checked))
    assert "No chosen run can be" in asked


def test_an_evaluation_is_compared_with_the_weights_that_its_encoder_started_from(
    service: Any, run: dict[str, Any]
) -> None:
    row = {"task": "retrieval", "metric": "IR@5", "value": 0.2, "split": "test"}
    ended = {**run, "kind": "evaluate", "state": "succeeded", "encoder_id": "enc_2", "spec": {"dataset": "sample"},
             "result": {"rows": [row], "dataset_hash": "h"}}  # fmt: skip
    client = page_service(service, ended, stored={"run_1": []})
    client.answers["artifacts"] = []
    client.answers["encoder_card"] = {"spec": {"model": {"init": "first"}}}
    others = [{**row, "value": 0.9, "dataset": "sample", "dataset_hash": "other"}]
    client.answers["encoder_figures"] = [*others, {**row, "value": 0.124, "dataset": "sample", "dataset_hash": "h"}]
    tab, selection = runs_tab(client), SelectedRun(WatchedRun("run_1"))
    assert "start weights 12.4" in tab.refresh(selection)[tab.opened]
    tab.refresh(selection)
    assert len(client.arguments_of("encoder_figures")) == 1
    client.answers["encoder_card"] = {"spec": {}}
    assert "start weights" not in tab.refresh(SelectedRun(WatchedRun("run_1")))[tab.opened]
