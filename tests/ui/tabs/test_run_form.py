"""An estimate on the page: in the form, and drawn."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from api.client.payloads import format_bytes, format_si
from ui.common import PageSelection
from ui.spec_fields import from_json, get_at, starting_spec, to_json
from ui.tabs.run_form import SpecForm, draw_estimate


def test_time_and_memory_come_with_their_ranges(estimate: dict[str, Any]) -> None:
    drawn = draw_estimate(estimate)
    assert "<b>3 min 30 s</b> <span>3 min 10 s to 4 min</span>" in drawn
    assert "<b>1.5 GiB</b> <span>peak memory a process, 1.4 GiB to 1.6 GiB</span>" in drawn
    assert "<dd>6.41 M</dd>" in drawn
    assert "<dd>64 k (128 a step)</dd>" in drawn
    assert "<dd>73.4 MiB</dd>" in drawn


def test_how_sure_it_is_and_why_are_in_words(estimate: dict[str, Any]) -> None:
    drawn = draw_estimate(estimate)
    assert "Measured" in drawn
    assert '<a href="?run=run_1">run_1</a>' in drawn
    assert "&lt;some&gt;" in drawn
    guess = draw_estimate({**estimate, "certainty": "assumed", "device": "gpu", "runs": []})
    assert "A guess" in guess
    assert "of a GPU, a process" in guess


@pytest.mark.parametrize(
    ("count", "words"),
    [(2000, "1.95 KiB"), (73 * 2**20, "73 MiB"), (1020 * 2**20, "1,020 MiB"), (2**31, "2 GiB"), (3 * 2**40, "3 TiB")],
)
def test_sizes_are_for_people(count: int, words: str) -> None:
    assert format_bytes(count) == words


def test_counts_have_prefixes() -> None:
    assert [format_si(value) for value in (3.84e13, 6_411_265, 900, 2e18)] == ["38.4 T", "6.41 M", "900 ", "2 E"]


def test_the_form_is_changed_before_the_estimate_is_asked_for(service: Any) -> None:
    form = SpecForm(service(), "pretrain")  # a call of the service fails
    spec = starting_spec("pretrain", "sample")
    values = [field.to_form(get_at(spec, field.path)) for field in form.fields]
    values[[field.path for field in form.fields].index("steps")] = 77
    text, verdict, estimate = form.write_fields(to_json(spec), *values)
    assert (from_json(text)["steps"], "The spec is valid" in verdict, estimate) == (77, True, gr.skip())
    assert form.read_editor('{"preset": "sample", "steps": 78}')[1] == gr.skip()
    text, _, estimate, *_ = form.apply_preset("sample_pairs")
    assert (from_json(text)["preset"], estimate) == ("sample_pairs", gr.skip())
    assert form.fill(spec, None)[5] == gr.skip()


def write(form: SpecForm, spec: dict[str, Any], title: str, value: Any) -> tuple[Any, ...]:
    """What the form shows after an edit of one field."""
    values = [field.to_form(get_at(spec, field.path)) for field in form.fields]
    values[[field.title for field in form.fields].index(title)] = value
    return form.write_fields(to_json(spec), *values)


def test_another_dataset_is_that_of_every_source_which_had_the_old_one(service: Any) -> None:
    form = SpecForm(service(), "pretrain")
    spec = starting_spec("pretrain", "sample")
    spec["data"]["sources"].append({**spec["data"]["sources"][1], "dataset": "other"})
    text, verdict, _ = write(form, spec, "Dataset", "mine")
    changed = from_json(text)
    sources = [(each["dataset"], each["view"], each["weight"]) for each in changed["data"]["sources"]]
    assert sources == [("mine", "interleaved", 1), ("mine", "pairs", 8), ("other", "pairs", 8)]
    assert "The spec is valid" in verdict
    del changed["data"]["sources"], spec["data"]["sources"]
    assert changed == spec, "nothing else changes"


def test_a_spec_without_sources_of_its_own_stays_as_it_is(service: Any) -> None:
    """A preset that is only named has sources, which the editor does not show."""
    form = SpecForm(service(), "pretrain")
    assert write(form, {"preset": "sample"}, "Dataset", "mine")[0] == gr.skip()


def test_an_estimate_follows_each_edit_and_a_proposal_has_its_own(service: Any, estimate: dict[str, Any]) -> None:
    form = SpecForm(service(estimate=estimate, encoders=[], datasets=[]), "pretrain")
    with gr.Blocks() as page:
        form.build(visible=True)
        form.wire()
    edits = {event._id for event in page.fns.values() if event.name in ("apply_preset", "read_editor", "write_fields")}
    estimates = [event for event in page.fns.values() if event.name == "update_estimate"]
    assert {event.trigger_after for event in estimates} == edits
    assert all((event.inputs, event.outputs) == ([form.turn, form.editor], form.estimates) for event in estimates)
    assert "Estimated cost" in form.update_estimate(PageSelection(0), '{"preset": "sample"}')
    text = to_json(starting_spec("pretrain", "sample"))
    assert "Estimated cost" in form.propose(text)[0]["after"][2]


def test_the_estimate_of_the_newest_spec_is_shown(service: Any, estimate: dict[str, Any]) -> None:
    turn, newer = PageSelection(0), []

    def answer(_: str, spec: dict[str, Any]) -> dict[str, Any]:
        if spec["steps"] == 77:
            newer.append(form.update_estimate(turn, '{"steps": 78}'))
        return estimate

    form = SpecForm(service(estimate=answer), "pretrain")
    assert form.update_estimate(turn, '{"steps": 77}') == gr.skip()
    assert "Estimated cost" in newer[0]


def test_a_wrong_spec_is_not_asked_about(service: Any) -> None:
    form = SpecForm(service(), "pretrain")
    assert "once the spec is valid" in form.update_estimate(PageSelection(0), "{")
    assert "once the spec is valid" in form.read_editor('{"steps": 0}')[1]
    assert "once the spec is valid" in form.read_editor("{")[1]


def test_what_the_service_refuses_is_said_in_its_words(service: Any, away: Exception) -> None:
    from api.client import ApiError

    refused = ApiError(422, "not_found", "there is no dataset '<x>'", "data.sources.0.dataset")
    assert "No estimate: there is no dataset &#x27;&lt;x&gt;" in SpecForm(
        service(estimate=refused), "pretrain"
    ).estimate("{}")
    assert "no answer from" in SpecForm(service(estimate=away), "pretrain").estimate("{}")


def test_other_kinds_are_not_estimated(service: Any) -> None:
    form = SpecForm(service(), "validate")
    assert len(form.read_editor('{"dataset": "sample"}')) == 1 + len(form.fields)


def test_nothing_is_proposed_for_a_draft_without_the_part_of_a_field(service: Any) -> None:
    form = SpecForm(service(datasets=[{"name": "sample", "created_at": "2026-01-02"}]), "pretrain")
    with gr.Blocks():
        form.build(visible=True)
    skipped = form.propose('{"data": {"sources": []}}', *[None] * len(form.fields))
    assert skipped == [gr.skip()] * (1 + len(form.choices))


def test_an_empty_encoder_is_the_first_in_the_order_of_the_service(service: Any) -> None:
    newest, pinned = ({"id": f"enc_{name}", "name": name, "info": {}} for name in ("newest", "pinned"))
    datasets = [{"name": "early", "created_at": "2026-01-01"}, {"name": "sample", "created_at": "2026-01-02"}]
    client = service(encoders=[pinned, newest], datasets=datasets)
    form = SpecForm(client, "evaluate")
    with gr.Blocks():
        form.build(visible=True)
    values = ["", *[None] * (len(form.fields) - 1)]
    proposal, *choices = form.propose("{}", *values)
    assert proposal["before"] == ["{}", *values], "the browser compares it with what the form has by then"
    text, _, *changed = proposal["after"]
    assert '"encoder": "pinned"' in text
    assert [value for value in changed if value is not None] == ["pinned", "sample"]
    assert choices[0]["choices"] == ["pinned", "newest"]
    assert "value" not in choices[0], "an encoder that was chosen meanwhile stays"
    assert [args for name, args, _ in client.calls if name == "datasets"] == [()], "only what the form lists is read"
