"""An estimate on the page: in the form, and drawn."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from api.client.payloads import format_bytes, format_si
from ui.spec_fields import get_at, starting_spec, to_json
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
    assert "moving average" not in drawn, "a part that is not there"
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


def test_the_form_asks_anew_whenever_its_spec_changes(service: Any, estimate: dict[str, Any]) -> None:
    requests: list[dict[str, Any]] = []

    def answer(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        assert kind == "pretrain"
        requests.append(spec)
        return estimate

    form = SpecForm(service(estimate=answer, encoders=[], datasets=[]), "pretrain")
    spec = starting_spec("pretrain", "sample")
    values = [field.to_form(get_at(spec, field.path)) for field in form.fields]
    steps = [field.path for field in form.fields].index("steps")
    values[steps] = 77
    assert "Estimated cost" in form.write_fields(to_json(spec), *values)[2]
    assert "Estimated cost" in form.read_editor('{"preset": "sample", "steps": 78}')[1]
    assert "Estimated cost" in form.apply_preset("sample_pairs")[2]
    with gr.Blocks():
        form.build(visible=True)
    assert "Estimated cost" in form.propose(to_json(spec))[0]["after"][2]
    assert [each["steps"] for each in requests[:2]] == [77, 78]
    assert requests[2]["preset"] == "sample_pairs"
    assert len(requests) == 4


def test_a_wrong_spec_is_not_asked_about(service: Any) -> None:
    form = SpecForm(service(), "pretrain")
    assert "once the spec is valid" in form.read_editor('{"steps": 0}')[1]
    assert "once the spec is valid" in form.read_editor("{")[1]


def test_what_the_service_refuses_is_said_in_its_words(service: Any, away: Exception) -> None:
    from api.client import ApiError

    refused = ApiError(422, "unknown_dataset", "there is no dataset '<x>'", "data.sources.0.dataset")
    assert "No estimate: there is no dataset &#x27;&lt;x&gt;" in SpecForm(
        service(estimate=refused), "pretrain"
    ).estimate("{}")
    assert "no answer from" in SpecForm(service(estimate=away), "pretrain").estimate("{}")


def test_other_kinds_are_not_estimated(service: Any) -> None:
    form = SpecForm(service(), "validate")
    assert len(form.read_editor('{"dataset": "sample"}')) == 1 + len(form.fields)


def test_an_empty_encoder_is_the_best_and_a_pinned_one_before_it(service: Any) -> None:
    newest, pinned = ({"id": f"enc_{name}", "name": name, "info": {}} for name in ("newest", "pinned"))
    datasets = [{"name": "early", "created_at": "2026-01-01"}, {"name": "sample", "created_at": "2026-01-02"}]
    client = service(encoders=[newest, {**pinned, "pinned": True}], encoder_figures=[], datasets=datasets)
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
