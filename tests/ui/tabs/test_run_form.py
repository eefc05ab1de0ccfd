"""An estimate on the page: in the form, and drawn."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from api.client import ApiError
from api.client.payloads import format_bytes, format_si
from ui.common import PageSelection
from ui.spec_fields import from_json, get_at, starting_spec, to_json
from ui.tabs.run_form import SpecForm, draw_estimate


def test_time_and_memory_come_with_their_ranges(estimate: dict[str, Any]) -> None:
    drawn = draw_estimate(estimate)
    assert "≈ <b>3 min 30 s</b> · <b>1.5 GiB</b> · measured: " in drawn
    assert "<dd>3 min 10 s to 4 min</dd>" in drawn
    assert "<dd>1.4 GiB to 1.6 GiB</dd>" in drawn
    assert "<dd>6.41 M</dd>" in drawn
    assert "<dd>64 k (128 a step)</dd>" in drawn
    assert "<dd>73.4 MiB</dd>" in drawn


def test_how_sure_it_is_and_why_are_in_words(estimate: dict[str, Any]) -> None:
    drawn = draw_estimate(estimate)
    assert '<a href="?run=run_1">run_1</a>' in drawn
    assert "&lt;some&gt;" in drawn
    guess = draw_estimate({**estimate, "certainty": "assumed", "device": "gpu", "runs": []})
    assert "a guess" in guess
    assert "of a GPU, a process" in guess


@pytest.mark.parametrize(
    ("count", "words"),
    [(2000, "1.95 KiB"), (73 * 2**20, "73 MiB"), (1020 * 2**20, "1,020 MiB"), (2**31, "2 GiB"), (3 * 2**40, "3 TiB")],
)
def test_sizes_are_for_people(count: int, words: str) -> None:
    assert format_bytes(count) == words


def test_counts_have_prefixes() -> None:
    assert [format_si(value) for value in (3.84e13, 6_411_265, 900, 2e18)] == ["38.4 T", "6.41 M", "900 ", "2 E"]


DATASETS = [{"name": "early", "created_at": "2026-01-01"}, {"name": "sample", "created_at": "2026-01-02"}]


@pytest.fixture
def client(service: Any) -> Any:
    encoders = [{"id": f"enc_{name}", "name": name, "info": {}} for name in ("pinned", "newest")]  # best first
    collections = [{"name": "sample", "images": 5397}, {"name": "sample-pinned", "images": 1}]
    return service(encoders=encoders, datasets=DATASETS, collections=collections, submit={"id": "run_9"})


def built(client: Any, kind: str) -> SpecForm:
    form = SpecForm(client, kind)
    with gr.Blocks():
        form.build()
    return form


def edited(form: SpecForm, spec: dict[str, Any], **values: Any) -> list[Any]:
    """The form's inputs with the spec, after edits of some fields by their titles."""
    shown = [field.to_form(get_at(spec, field.path)) for field in form.fields]
    return [values.get(field.title, value) for field, value in zip(form.fields, shown, strict=True)]


def test_another_dataset_is_that_of_every_source_which_had_the_old_one(service: Any) -> None:
    form = built(service(), "pretrain")
    spec = starting_spec("pretrain", "sample")
    spec["data"]["sources"].append({**spec["data"]["sources"][1], "dataset": "other"})
    changed = from_json(form.write_fields(to_json(spec), *edited(form, spec, Dataset="mine"))[form.editor])
    sources = [(each["dataset"], each["view"], each["weight"]) for each in changed["data"]["sources"]]
    assert sources == [("mine", "interleaved", 1), ("mine", "pairs", 8), ("other", "pairs", 8)]
    del changed["data"]["sources"], spec["data"]["sources"]
    assert changed == spec, "nothing else changes"
    preset = {"preset": "sample"}  # its sources are not in the editor
    assert form.editor not in form.write_fields(to_json(preset), *edited(form, preset, Dataset="mine"))


def test_the_estimate_of_the_newest_spec_is_shown(service: Any, estimate: dict[str, Any]) -> None:
    turn, newer = PageSelection(0), []

    def answer(_: str, spec: dict[str, Any]) -> dict[str, Any]:
        if spec["steps"] == 77:
            newer.append(form.update_estimate(turn, '{"steps": 78}'))
        return estimate

    form = SpecForm(service(estimate=answer), "pretrain")
    assert form.update_estimate(turn, '{"steps": 77}') == gr.skip()
    assert "lcl-estimate" in newer[0]
    assert "once the spec is valid" in form.update_estimate(turn, '{"steps": 0}')


def test_what_the_service_refuses_is_said_in_its_words(service: Any, away: Exception) -> None:
    refused = ApiError(422, "not_found", "there is no dataset '<x>'", "data.sources.0.dataset")
    drawn = SpecForm(service(estimate=refused), "pretrain").draw_cost("{}")
    assert "No estimate: there is no dataset &#x27;&lt;x&gt;" in drawn
    form = built(service(submit=refused), "pretrain")
    spec = starting_spec("pretrain", "sample")
    shown, made = form.send(("", False), to_json(spec), "", *edited(form, spec))
    assert (made, shown[form.inputs[0]]["info"]) == (None, "Dataset: there is no dataset '<x>'.")
    form = built(service(submit=away), "pretrain")
    assert "No answer from" in form.send(("", False), to_json(spec), "", *edited(form, spec))[0][form.verdict]


def test_a_form_opens_with_the_best_encoder_the_newest_dataset_and_a_free_name(client: Any) -> None:
    form = built(client, "index")
    shown = form.open(starting_spec("index"))
    spec = from_json(shown[form.editor])
    assert (spec["encoder"], spec["dataset"], spec["collection"]) == ("pinned", "sample", "sample-pinned-2")
    assert "mode" not in spec
    other = edited(form, spec, Dataset="early")
    written = form.write_fields(shown[form.editor], *other)
    assert from_json(written[form.editor])["collection"] == "early-pinned", "the proposal follows"
    for kind, name in (("convert", "early-converted"), ("match", "early-matched")):
        form = built(client, kind)
        assert from_json(form.open({**starting_spec(kind), "dataset": "early"})[form.editor])["name"] == name


def test_a_form_is_neutral_until_it_is_started(client: Any) -> None:
    form = built(client, "convert")
    text = to_json(starting_spec("convert"))
    assert form.mark(("", False), text) == {form.marked: ("", False)}
    marks = form.mark(("", False), text, started=True)
    name = form.inputs[[field.path for field in form.fields].index("name")]
    assert (marks[form.marked], marks[name]["info"]) == (("name", False), "Dataset to make: fill this in.")
    assert marks[name]["elem_classes"] == ["bad"]
    steps = built(client, "pretrain")
    assert steps.mark(("", False), '{"steps": 0}')[steps.inputs[1]]["info"] == "Steps: at least 1."
    assert steps.mark(("steps", False), '{"steps": 1}')[steps.inputs[1]]["elem_classes"] == []


def test_a_collection_is_replaced_only_after_a_question(client: Any) -> None:
    form = built(client, "index")
    spec = {**starting_spec("index"), "encoder": "pinned", "collection": "sample"}
    shown, made = form.send(("", False), to_json(spec), "", *edited(form, spec))
    assert (made, shown[form.mode].visible, shown[form.marked]) == (None, True, ("collection", True))
    assert "Collection: this one exists" in shown[form.inputs[2]]["info"]
    text = form.choose_mode(to_json(spec), "replace")[form.editor]
    shown, made = form.send(("", False), text, "", *edited(form, spec))
    assert made is None
    assert "Replace sample?" in shown[form.question]
    assert "Its 5,397 images and tags are deleted." in shown[form.question]
    assert client.arguments_of("submit") == []
    assert form.send(("", False), text, "", *edited(form, spec), confirmed=True)[1] == "run_9"
    added = form.choose_mode(to_json(spec), "add")[form.editor]
    assert form.send(("", False), added, "", *edited(form, spec))[1] == "run_9"
    assert from_json(form.choose_mode(text, "new")[form.editor])["collection"] == "sample-pinned-2"


def test_a_draft_stays_as_it_was_left(client: Any) -> None:
    form = built(client, "evaluate")
    assert form.restore("{ half", "mine")[form.editor] == "{ half"
    assert form.restore('{"encoder": "mine", "seed": 3}', "")[form.inputs[0]]["value"] == "mine"


def test_a_study_is_counted_and_started_with_its_fields(service: Any) -> None:
    plan = {"rows": 3, "seeds": 2, "cells": 6, "reused": 2, "certainty": "measured"}
    plan["seconds"] = {"expected": 3900, "low": 3240, "high": 4740}
    form = built(service(plan_study=plan, submit_study={"id": "study_1"}), "study")
    spec = starting_spec("study")
    values = edited(form, spec, Seeds="0, 7", Steps=20.0)
    text = form.write_fields(to_json(spec), *values)[form.editor]
    assert (from_json(text)["seeds"], get_at(from_json(text), "pretrain.steps")) == ([0, 7], 20)
    drawn = form.draw_cost(text)
    assert "What does each part of the LCL loss do?" in drawn
    assert "3 rows × 2 seeds = 6 pre-trainings and 6 evaluations; 2 of the pre-trainings are there" in drawn
    assert "1 h 5 min in one slot, one after another (54 min to 1 h 19 min; measured:" in drawn
    assert form.send(("", False), text, "", *values)[1] == "study_1"
