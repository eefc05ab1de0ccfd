"""The tab's handlers and its form against a service that answers from memory."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from lcl_core.specs.base import presets
from ui.tabs.studies import FIRST_STUDY, SelectedStudy, StudiesTab, StudyForm, WatchedStudy, plan_summary

Json = dict[str, Any]
PLAN = {"rows": 3, "seeds": 2, "cells": 6, "reused": 0}
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


def test_a_plan_says_how_long_it_takes_and_what_that_rests_on() -> None:
    seconds = {"expected": 12_600.0, "low": 7200.0, "high": 18_000.0}
    told = plan_summary({**PLAN, "seconds": seconds, "certainty": "assumed"})
    assert "takes 3 h 30 min in one slot, one after another (2 h 0 min to 5 h 0 min; a guess: no run" in told
    assert "slot" not in plan_summary({**PLAN, "seconds": None, "certainty": None})


@pytest.fixture
def client(service: Any) -> Any:
    return service(
        studies=lambda cursor: {"items": [study("study_2"), study("study_1")], "next_cursor": None},
        study=lambda study_id: study(study_id),
        study_curves=lambda study_id, value: CURVES,
        plan_study=PLAN,
        submit_study=lambda spec, name: study("study_3"),
        cancel_study=study(),
        resume_study=study(),
    )


def at(study_id: str | None = None) -> SelectedStudy:
    return SelectedStudy(WatchedStudy(study_id))


def test_runs_that_were_not_resumed_are_named(service: Any) -> None:
    refused = [{"id": "run_1", "code": "timeout_reached", "message": "run_1 has no time left"}]
    tab = StudiesTab(service(resume_study={**study(), "not_resumed": refused}))
    assert "run_1 has no time left" in tab.act("resume", "study_1")
    assert StudiesTab(service(resume_study=study())).act("resume", "study_1") == ""


def test_at_first_the_newest_study_is_shown(client: Any) -> None:
    selection = at()
    listing, head, cancel, resume, *_ = StudiesTab(client).refresh(selection)
    assert selection.current.id == "study_2"
    assert listing.count("aria-current") == 1
    assert "mine" in head
    assert (cancel.visible, resume.visible) == (True, False)


def test_older_studies_are_on_further_pages(client: Any) -> None:
    tab, selection = StudiesTab(client), at()
    assert "page:older" not in tab.refresh(selection)[0]
    client.answers["studies"] = lambda cursor: {"items": [study("study_2")], "next_cursor": None if cursor else "2"}
    assert "Page 1" in tab.refresh(selection)[0]
    shown = tab.select(selection, None, "loss", SimpleNamespace(pick="page:older"))  # type: ignore[arg-type]
    assert "Page 2" in shown[0]
    assert "Page 2" in tab.refresh(selection)[0], "a tick keeps the page"
    shown = tab.select(selection, None, "loss", SimpleNamespace(pick="page:newer"))  # type: ignore[arg-type]
    assert "Page 1" in shown[0]


def test_a_link_opens_its_study(client: Any) -> None:
    class Request:
        query_params: dict[str, str] = {"study": "study_1"}  # noqa: RUF012

    selection = at()
    StudiesTab(client).refresh(selection, request=Request())  # type: ignore[arg-type]
    assert selection.current.id == "study_1"


def test_without_studies_the_way_to_one_is_shown(service: Any) -> None:
    selection = at()
    listing, head, *_ = StudiesTab(service(studies={"items": [], "next_cursor": None})).refresh(selection)
    assert "No studies yet" in listing
    assert selection.current.id is None
    assert "No study selected" in head


def test_a_service_that_is_away_is_said_in_words(service: Any, client: Any, away: Exception) -> None:
    selection = at("study_1")
    listing, *rest = StudiesTab(service(studies=away)).refresh(selection)
    assert "no answer from" in listing
    assert selection.current.id == "study_1"
    assert all(each == gr.skip() for each in rest), "what is on show stays"
    client.answers["study"] = away
    _, head, *_ = StudiesTab(client).refresh(at("study_9"))
    assert "no answer from" in head


def test_the_curves_of_an_ended_study_are_read_once(client: Any) -> None:
    client.answers["study"] = study(state="succeeded")
    tab = StudiesTab(client)
    selection = at("study_1")
    tab.refresh(selection)
    tab.refresh(selection, "TR@5")
    assert sum(name == "study_curves" for name, *_ in client.calls) == 1
    tab.change_value(selection, "TR@5", "lr")
    assert [args[1] for name, args, _ in client.calls if name == "study_curves"] == ["loss", "lr"]


def test_the_figure_that_is_asked_for_is_drawn(client: Any) -> None:
    shown = StudiesTab(client).refresh(at("study_1"), "TR@5", "lr")
    metric, value, charts = shown[8:11]
    assert ("value" in metric, "value" in value) == (False, False), "another may have been chosen meanwhile"
    assert "TR@5 over seconds of training" in charts
    unknown = StudiesTab(client).refresh(at("study_1"), "gone")
    assert unknown[8]["value"] == "IR@5"


def test_nothing_is_fetched_while_another_tab_is_looked_at(client: Any) -> None:
    assert StudiesTab(client).tick(at("study_1"), "IR@5", None, None) == gr.skip()
    assert client.calls == []


def test_buttons_fit_the_state(client: Any) -> None:
    def shown(state: str) -> list[bool]:
        client.answers["study"] = study(state=state)
        return [button.visible for button in StudiesTab(client).refresh(at("study_1"))[2:4]]

    assert shown("queued") == shown("running") == [True, False]
    assert shown("failed") == shown("cancelled") == [False, True]
    assert shown("succeeded") == shown("cancelling") == [False, False]


def test_the_new_study_is_selected(client: Any) -> None:
    tab = StudiesTab(client)
    text = json.dumps(presets("study")[FIRST_STUDY])
    selection = at("study_1")
    verdict = tab.submit(text, " ", FIRST_STUDY, "0, 1, 2", 500, selection)
    assert "Submitted as study_3" in verdict
    assert selection.current.id == "study_3"
    name, (spec, title), _ = client.calls[-1]
    assert (name, title, spec["seeds"]) == ("submit_study", FIRST_STUDY, [0, 1, 2])
    for broken, seeds, words in (("{", "0, 1, 2", "line 1"), (text, "0, 1", "differ")):
        verdict = tab.submit(broken, "", FIRST_STUDY, seeds, 500, selection)
        assert words in verdict
        assert selection.current.id == "study_3"


def test_fields_write_into_the_spec_and_the_service_counts(client: Any) -> None:
    form = StudyForm(client)
    text, verdict = form.write_fields(json.dumps(presets("study")["table1"]), "4, 5,", 500)
    assert json.loads(text)["seeds"] == [4, 5]
    assert json.loads(text)["pretrain"] == {"preset": "sample"}, "500 is what the preset says"
    assert "3 rows × 2 seeds = 6 pre-trainings and 6 evaluations." in verdict
    late = json.dumps(presets("study")["table1"])  # the editor as it was before the seeds had arrived there
    text, _ = form.write_fields(late, "4, 5", 50.0)
    assert (json.loads(text)["seeds"], json.loads(text)["pretrain"]["steps"]) == ([4, 5], 50)
    form.write_fields(text, "x", 50)
    assert client.calls[-1][1][0]["seeds"] == ["x"], "the service says what is wrong with it"


@pytest.mark.parametrize("preset", sorted(presets("study")))
def test_every_built_in_study_can_be_chosen(client: Any, preset: str) -> None:
    text, question, seeds, steps, name, verdict = StudyForm(client).apply_preset(preset)
    assert json.loads(text) == presets("study")[preset]
    assert presets("study")[preset]["question"][:20] in question
    assert (seeds, name.placeholder) == ("0, 1, 2", preset)
    assert (steps.value, steps.interactive) == ((None, False) if preset == "scaling" else (500, True))
    assert "pre-trainings" in verdict


@pytest.mark.parametrize(
    "unfinished",
    [
        {"axes": [{"name": "loss"}]},
        {"axes": None},
        {"axes": ["loss"]},
        {"axes": [{"variants": [1]}]},
        {"axes": [{"variants": [{"spec": None}]}]},
        {"pretrain": 5},
    ],
)
def test_an_unfinished_study_is_left_to_be_finished(client: Any, unfinished: Json) -> None:
    text = json.dumps({"seeds": [7], **unfinished})
    client.answers["plan_study"] = ApiError(422, "bad_spec", "axes.0.variants: is missing")
    form = StudyForm(client)
    _, seeds, steps, verdict = form.read_editor(text)
    assert (seeds, steps.value, steps.interactive) == ("7", None, False)
    assert "is missing" in verdict
    draft = json.dumps({"study": {"name": "mine", "text": text}})
    assert form.restore_draft(draft)[2] == text
    assert json.loads(form.write_fields(text, "8", None)[0]) == {"seeds": [8], **unfinished}
    client.answers["submit_study"] = ApiError(422, "bad_spec", "axes.0.variants: is missing")
    assert form.send(text, "", FIRST_STUDY, "7", None)[1] is None


def test_a_draft_fills_the_fields_without_a_call_and_without_one_they_stay(service: Any) -> None:
    form = StudyForm(service())
    draft = {"study": {"name": "mine", "text": '{"seeds": [7], "pretrain": {"steps": 9}}'}}
    drawer, name, text, _, seeds, steps = form.restore_draft(json.dumps(draft))
    assert (drawer.open, name, text, seeds, steps.value) == (True, "mine", draft["study"]["text"], "7", 9)
    draft["study"]["text"] = "{"
    assert form.restore_draft(json.dumps(draft))[2:] == ("{", *(gr.skip(),) * 3)
    assert form.restore_draft("{}") == (gr.skip(),) * 6


def test_the_count_is_honest() -> None:
    assert plan_summary({**PLAN, "reused": 2}) == (
        "3 rows × 2 seeds = 6 pre-trainings and 6 evaluations; 2 of the pre-trainings are there already and are not "
        "run again."
    )


@pytest.mark.parametrize(
    ("verb", "said"), [("cancel", "1 of its cells are running"), ("delete", "Its runs and their encoders stay.")]
)
def test_what_is_lost_is_said_before_it_is_done(client: Any, verb: str, said: str) -> None:
    client.answers["delete_study"] = None
    tab, selection = StudiesTab(client), at("study_1")
    assert said in tab.show_question(verb, selection)
    picked = [type("Event", (), {"pick": pick})() for pick in ("keep:", f"{verb}:study_1")]
    tab.answer(selection, None, "loss", picked[0])
    assert client.arguments_of(f"{verb}_study") == []
    tab.answer(selection, None, "loss", picked[1])
    assert client.arguments_of(f"{verb}_study") == [{}]
    assert selection.current.id == ("study_1" if verb == "cancel" else "study_2"), "a deleted study is left"


def test_all_ways_of_refreshing_give_a_value_for_each_output(client: Any) -> None:
    tab, unreachable = StudiesTab(client), ApiError(503, "unreachable", "it does not answer")
    whole = len(tab.refresh(at()))
    kept = tab.answer(at("study_1"), None, "loss", type("Event", (), {"pick": "keep:"})())
    assert (len(kept), kept[0], set(map(str, kept[1:]))) == (whole + 1, "", {str(gr.skip())})
    client.answers["studies"] = {"items": [], "next_cursor": None}
    assert len(tab.refresh(at())) == whole
    client.answers["studies"] = unreachable
    assert len(tab.refresh(at())) == whole
