"""The form of a run: what it opens with, what an edit changes, what it refuses; and the estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.client import ApiError
from api.client.payloads import format_bytes, format_si
from ui.spec_fields import from_json, get_at, starting_spec
from ui.tabs.run_form import FilledForm, RunForm, draw_estimate, parse_values


def test_time_and_memory_come_with_their_ranges(estimate: dict[str, Any]) -> None:
    drawn = draw_estimate(estimate)
    assert "≈ <b>3 min 30 s</b> · <b>1.5 GiB</b> · measured: " in drawn
    assert "<dd>3 min 10 s to 4 min</dd>" in drawn
    assert "<dd>1.4 GiB to 1.6 GiB</dd>" in drawn
    assert "<dd>6.41 M</dd>" in drawn
    assert "<dd>171 MiB</dd>" in drawn


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


def opened(client: Any, kind: str, **spec: Any) -> tuple[RunForm, FilledForm]:
    form = RunForm(client)
    return form, form.open(kind, {**starting_spec(kind), **spec})


def typed(draft: FilledForm, changed: str = "", **values: str) -> dict[str, list[str]]:
    """What the browser sends: all that the draft shows, with edits of fields by their titles."""
    paths = {each.title: each.path for each in draft.fields}
    own = {path: list(texts) for path, texts in draft.values.items()} | {"spec": [draft.text], "changed": [changed]}
    return own | {paths.get(title, title): [value] for title, value in values.items()}


def test_another_dataset_is_that_of_every_source_which_had_the_old_one(service: Any) -> None:
    spec = starting_spec("pretrain", "sample")
    spec["data"]["sources"].append({**spec["data"]["sources"][1], "dataset": "other"})
    form, draft = RunForm(service()), FilledForm("pretrain").with_spec(spec)
    changed = from_json(form.change(draft, typed(draft, Dataset="mine")).text)
    sources = [(each["dataset"], each["view"], each["weight"]) for each in changed["data"]["sources"]]
    assert sources == [("mine", "interleaved", 1), ("mine", "pairs", 8), ("other", "pairs", 8)]
    del changed["data"]["sources"], spec["data"]["sources"]
    assert changed == spec, "nothing else changes"


def test_fields_and_json_follow_each_other_and_the_preset_both(service: Any) -> None:
    form, draft = RunForm(service()), FilledForm("pretrain").with_spec(starting_spec("pretrain", "sample"))
    assert draft.values["steps"] == ["500"]
    draft = form.change(draft, typed(draft, "spec", spec='{"preset": "sample", "steps": 88}', Steps="7"))
    assert (draft.values["steps"], from_json(draft.text)["steps"]) == (["88"], 88)
    other = form.change(draft, typed(draft, "preset", preset="sample"))
    assert (other.values["steps"], other.version > draft.version) == (["500"], True)
    broken = form.change(draft, typed(draft, "spec", spec='{"steps": '))
    assert (broken.text, "line 1" in broken.draw(), broken.values["steps"]) == ('{"steps": ', True, ["88"])


def test_names_and_json_are_text(service: Any) -> None:
    draft = FilledForm("convert", name='"><b>').with_spec(
        {**starting_spec("convert"), "path": "<i>", "x": "</textarea>"}
    )
    drawn = replace(draft, choices={"dataset": ["<u>"]}, error=("path", "<s>")).draw()
    assert not any(part in drawn for part in ('<b>"', "<i>", '</textarea>"', "<u>", "<s>"))


def test_what_the_service_refuses_is_said_in_its_words(service: Any, away: Exception) -> None:
    refused = ApiError(422, "not_found", "there is no dataset '<x>'", "data.sources.0.dataset")
    draft = FilledForm("pretrain").with_spec(starting_spec("pretrain", "sample"))
    form = RunForm(service(estimate=refused, submit=refused))
    assert "No estimate: there is no dataset &#x27;&lt;x&gt;" in form.draw_cost(draft)
    assert "once the spec is valid" in form.draw_cost(replace(draft, text='{"steps": 0}'))
    shown, made = form.start(draft, typed(draft))
    assert (made, shown.error) == (None, ("data.sources.*.dataset", "Dataset: there is no dataset '<x>'."))
    shown, made = RunForm(service(submit=away)).start(draft, typed(draft))
    assert "No answer from" in shown.draw()


def test_a_form_opens_with_the_best_encoder_the_newest_dataset_and_a_free_name(client: Any) -> None:
    form, draft = opened(client, "index")
    spec = from_json(draft.text)
    assert (spec["encoder"], spec["dataset"], spec["collection"]) == ("pinned", "sample", "sample-pinned-2")
    assert "mode" not in spec
    changed = form.change(draft, typed(draft, Dataset="early"))
    assert from_json(changed.text)["collection"] == "early-pinned", "the proposal follows"
    for kind, name in (("convert", "early-converted"), ("match", "early-matched")):
        assert from_json(opened(client, kind, dataset="early")[1].text)["name"] == name


def test_a_form_is_neutral_until_it_is_started(client: Any) -> None:
    form, draft = opened(client, "convert", name="")
    draft = form.change(draft, typed(draft, **{"Dataset to make": ""}))
    assert draft.error == ("", "")
    shown, made = form.start(draft, typed(draft))
    assert (made, shown.error) == (None, ("name", "Dataset to make: fill this in."))
    assert 'class="lcl-field bad"' in shown.draw()
    form, draft = opened(client, "pretrain")
    draft = form.change(draft, typed(draft, Steps="0"))
    assert draft.error == ("steps", "Steps: at least 1.")
    assert form.change(draft, typed(draft, Steps="1")).error == ("", "")


def test_a_collection_is_replaced_only_after_a_question(client: Any) -> None:
    form, draft = opened(client, "index")
    draft = form.change(draft, typed(draft, Collection="sample"))
    assert "A collection of this name exists" in draft.draw()
    shown, made = form.start(draft, typed(draft))
    assert (made, shown.error) == (None, ("collection", "Collection: this one exists; say below what happens to it."))
    draft = form.change(draft, typed(draft, "mode", mode="replace"))
    shown, made = form.start(draft, typed(draft))
    assert made is None
    assert "Replace sample?" in shown.draw()
    assert "Its 5,397 images and tags are deleted." in shown.draw()
    assert client.arguments_of("submit") == []
    assert form.start(shown, typed(shown), confirmed=True)[1] == "run_9"
    added = form.change(draft, typed(draft, "mode", mode="add"))
    assert form.start(added, typed(added))[1] == "run_9"
    assert from_json(form.change(draft, typed(draft, "mode", mode="new")).text)["collection"] == "sample-pinned-2"
    assert len({kwargs["idempotency_key"] for kwargs in client.arguments_of("submit")}) == 1


def test_a_study_is_counted_and_started_with_its_fields(service: Any) -> None:
    plan = {"rows": 3, "seeds": 2, "cells": 6, "reused": 2, "certainty": "measured"}
    plan["seconds"] = {"expected": 3900, "low": 3240, "high": 4740}
    form, draft = opened(service(plan_study=plan, submit_study={"id": "study_1"}), "study")
    draft = form.change(draft, typed(draft, Seeds="0, 7", Steps="20"))
    assert (from_json(draft.text)["seeds"], get_at(from_json(draft.text), "pretrain.steps")) == ([0, 7], 20)
    drawn = form.draw_cost(draft)
    assert "What does each part of the LCL loss do?" in drawn
    assert "3 rows × 2 seeds = 6 pre-trainings and 6 evaluations; 2 of the pre-trainings are there" in drawn
    assert "1 h 5 min in one slot, one after another (54 min to 1 h 19 min; measured:" in drawn
    assert form.start(draft, typed(draft))[1] == "study_1"


@pytest.mark.parametrize("text", ["null", "{", "[]", '{"steps": 5}', '{"steps": [{"a": 1}]}'])
def test_what_is_no_form_changes_nothing_that_breaks(client: Any, text: str) -> None:
    form, draft = opened(client, "evaluate")
    assert "Evaluate an encoder" in form.change(draft, parse_values(text)).draw()
