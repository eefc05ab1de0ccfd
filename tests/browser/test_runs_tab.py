"""Runs: submit one, watch it move, stop it and take it up again; and what a wrong spec is answered with."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious
from ui.ranking import rank_encoders

pytestmark = pytest.mark.browser


def open_form(visitor: Any, url: str, kind: str = "Pre-train") -> Any:
    page = visitor.open(f"{url}/?tab=runs")
    page.get_by_role("button", name="New run").click()
    page.locator("#new-run").get_by_text(kind, exact=True).click()
    if kind == "Pre-train":
        expect(page.locator("#verdict-pretrain")).to_contain_text("The spec is valid")  # it has its first values
    return page


SLOW_EVENTS = """(() => {
  const ask = window.fetch;
  window.fetch = async (...question) => {
    if (String(question[0]).includes('/run/predict')) await new Promise((resolve) => setTimeout(resolve, 400));
    return ask(...question);
  };
})()"""  # each event is sent .4 s after it began

LATE_PROPOSALS = """(() => {
  const ask = window.fetch;
  const released = new Promise((resolve) => { window.release = resolve; });
  window.fetch = async (...question) => {
    const answer = await ask(...question);
    if (!String(question[0]).includes('/run/predict')) return answer;
    const text = await answer.text();
    if (text.includes('"before"')) await released;
    return new Response(text, answer);
  };
})()"""  # what the service proposes for a form arrives when the test says so


def press(page: Any, verb: str) -> None:
    """An action of the selected run, from its menu unless it is beside the name."""
    button = page.locator(f"#run-head [data-pick^='{verb}:']")
    if not button.is_visible():
        page.locator("#run-head").get_by_label("More").click()
    button.click()


def line(step: int) -> dict[str, Any]:
    """A line of metrics as the trainer writes it."""
    return {
        "time": 1.0 * step,
        "step": step,
        "total_steps": 100,
        "contrastive_loss": 4 / step,
        "generation_loss": 60 / step,
        "images_per_s": 150.0,
        "seconds_left": 65.0,
    }


def test_a_run_is_submitted_watched_cancelled_and_resumed(visitor: Any, page_url: str, world: Any) -> None:
    from lcl_core.db import complete_run

    page = open_form(visitor, page_url)
    page.get_by_label("Name").fill("from the page")
    page.get_by_label("Steps").fill("100")
    verdict = page.locator("#verdict-pretrain")
    expect(page.get_by_role("region", name="Estimate")).to_contain_text("12.8 k (128 a step)")  # the verdict is of it
    expect(verdict).to_contain_text("The spec is valid")
    page.locator("#submit-pretrain").click()
    expect(verdict).to_contain_text("Submitted as run_")
    head = page.locator("#run-head")
    expect(head.get_by_role("heading")).to_have_text("from the page")
    expect(head).to_contain_text("Queued")
    run = world.client.runs(state="queued")["items"][0]
    assert run["spec"]["steps"] == 100

    claim = world.claim(run["id"])
    world.record(claim, *[line(step) for step in range(5, 45, 5)])
    (world.folder(run["id"]) / "log.txt").write_text("step 40 <b>loss</b>\n", encoding="utf-8")
    expect(head).to_contain_text("step 40 of 100 · 1 min 5 s left")
    expect(head.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    expect(page.get_by_role("img", name="Contrastive loss: 0.800 at step 5, 0.100 at step 40")).to_be_visible()
    page.locator("#run-details summary", has_text="Log").click()
    expect(page.get_by_role("log")).to_have_text("step 40 <b>loss</b>\n")
    world.record(claim, line(50))
    expect(page.get_by_role("img", name="Generation loss: 12.000 at step 5, 1.200 at step 50")).to_be_visible()

    press(page, "cancel")
    page.get_by_role("button", name="Cancel run").click()
    expect(head).to_contain_text("Stopping")
    world.settle(claim, complete_run.RunCancelled())
    expect(head).to_contain_text("Cancelled")
    press(page, "resume")
    expect(head).to_contain_text("Queued")
    press(page, "cancel")
    page.get_by_role("button", name="Cancel run").click()
    expect(head).to_contain_text("Cancelled")


@pytest.mark.extended
def test_submit_waits_for_the_last_edit(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    page.add_init_script(SLOW_EVENTS)
    page.reload()
    page.get_by_role("button", name="New run").click()
    expect(page.locator("#verdict-pretrain")).to_contain_text("The spec is valid")
    page.get_by_label("Name").fill("pressed at once")
    page.get_by_label("Steps").fill("70")
    submit, verdict = page.locator("#submit-pretrain"), page.locator("#verdict-pretrain")
    submit.dblclick()
    expect(verdict).to_contain_text("Submitted as run_")
    runs = [run for run in world.client.runs(kind="pretrain")["items"] if run["name"] == "pressed at once"]
    assert [run["spec"]["steps"] for run in runs] == [70]
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("pressed at once")
    expect(verdict).to_contain_text("Submitted as run_")


@pytest.mark.extended
def test_of_two_quick_choices_the_last_counts(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    page.add_init_script(SLOW_EVENTS)
    page.reload()
    page.get_by_role("button", name="New run").click()
    for kind in ("Evaluate", "Validate"):
        page.locator("#new-run").get_by_text(kind, exact=True).click()
    expect(page.locator("#submit-validate")).to_be_visible()
    expect(page.locator("#submit-evaluate")).to_be_hidden()


@pytest.mark.extended
def test_a_run_is_held_back_and_goes_on_and_one_waits_for_it(visitor: Any, page_url: str, world: Any) -> None:
    first = world.client.submit("pretrain", {"preset": "sample"}, name="held back")["id"]
    world.client.submit("validate", {"dataset": "sample"}, name="after it", after=[first])
    claim = world.claim(first)
    world.record(claim, line(20))
    page = visitor.open(f"{page_url}/?run={first}")
    head = page.locator("#run-head")
    press(page, "pause")
    expect(head).to_contain_text("Pausing")
    expect(page.locator("#run-head [data-pick^='pause:']")).to_have_count(0)
    world.hand_back(claim)
    expect(head).to_contain_text("Resume goes on from step 20/100.")
    page.locator("#run-list").get_by_role("button", name="after it").click()
    expect(head).to_contain_text("Waiting")
    head.get_by_role("link", name=first).click()
    expect(head.get_by_role("heading")).to_have_text("held back")
    press(page, "resume")
    expect(head).to_contain_text("Queued")
    press(page, "cancel")
    page.get_by_role("button", name="Cancel run").click()
    expect(head).to_contain_text("Cancelled")


def clone_examined(page: Any) -> Any:
    """The form, filled with the spec of the run ``examined``."""
    page.locator("#run-list").get_by_role("button", name="examined").click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("examined")
    page.locator("#run-head").get_by_role("link", name="Clone").click()
    form = page.locator("#new-run")
    expect(form.get_by_label("Name")).to_have_value("examined")
    return form


def submit_clone(page: Any, world: Any) -> None:
    """The run that is submitted has the spec of the run ``examined``; it is removed again."""
    page.locator("#submit-evaluate").click()
    expect(page.locator("#verdict-evaluate")).to_contain_text("Submitted as run_")
    made, original = (run for run in world.client.runs(kind="evaluate")["items"] if run["name"] == "examined")
    assert made["spec"] == original["spec"]
    world.client.cancel(made["id"])
    world.client.delete(made["id"])


@pytest.mark.extended
def test_a_clone_is_the_runs_spec_in_the_form(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    form = clone_examined(page)
    expect(form.get_by_label("Encoder")).to_have_value("tiny")
    expect(page.locator("#verdict-evaluate")).to_contain_text("The spec is valid")
    submit_clone(page, world)


@pytest.mark.extended
def test_an_evaluation_opens_with_the_best_encoder(visitor: Any, page_url: str, world: Any) -> None:
    best = rank_encoders(world.client)[0]["name"]
    page = open_form(visitor, page_url, "Evaluate")
    form = page.locator("#new-run")
    expect(form.get_by_label("Encoder")).to_have_value(best)
    expect(form.get_by_label("Dataset")).to_have_value("sample")
    expect(page.locator("#verdict-evaluate")).to_contain_text("The spec is valid")


@pytest.mark.extended
def test_a_clone_stays_when_a_proposal_for_the_form_arrives_late(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    page.add_init_script(LATE_PROPOSALS)
    page.reload()
    form = clone_examined(page)
    page.evaluate("window.release()")
    form.get_by_label("Encoder").click()
    expect(form.get_by_role("option", name="plain").first).to_be_visible()  # the proposal has arrived
    page.keyboard.press("Escape")
    submit_clone(page, world)


@pytest.mark.extended
def test_a_wrong_field_is_named_before_submitting(visitor: Any, page_url: str, world: Any) -> None:
    before = len(world.client.runs()["items"])
    page = open_form(visitor, page_url)
    page.get_by_label("Learning rate").fill("-1")
    verdict = page.locator("#verdict-pretrain")
    expect(verdict.get_by_role("alert")).to_contain_text("optimizer.lr")
    expect(verdict).to_contain_text("greater than 0")
    page.locator("#submit-pretrain").click()
    expect(verdict.get_by_role("alert")).to_contain_text("optimizer.lr")
    page.get_by_label("Learning rate").fill("0.001")
    expect(verdict).to_contain_text("The spec is valid")
    assert len(world.client.runs()["items"]) == before


@pytest.mark.extended
def test_the_service_has_the_last_word(visitor: Any, page_url: str) -> None:
    page = open_form(visitor, page_url, "Index")
    page.get_by_role("button", name="Full spec (JSON)").click()
    editor = page.locator("#new-run .cm-content")
    expect(editor).to_contain_text('"encoder": "tiny"')
    encoder = page.locator("#new-run").get_by_label("Encoder")
    encoder.fill("nobody")
    encoder.press("Enter")
    expect(editor).to_contain_text('"encoder": "nobody"')
    page.locator("#submit-index").click()
    verdict = page.locator("#verdict-index").get_by_role("alert")
    expect(verdict).to_contain_text("nobody")
    expect(verdict.locator("code")).to_have_text("encoder")


@pytest.mark.extended
def test_what_a_run_would_take_is_reported_before_it_is_submitted(visitor: Any, page_url: str, world: Any) -> None:
    before = len(world.client.runs()["items"])
    page = open_form(visitor, page_url)
    estimate = page.get_by_role("region", name="Estimate")
    expect(estimate).to_contain_text("6.41 M")
    expect(estimate).to_contain_text("64 k (128 a step)")
    page.get_by_label("Steps").fill("1000")
    expect(estimate).to_contain_text("128 k (128 a step)")
    page.get_by_label("Image size").fill("128")
    expect(estimate).not_to_contain_text("6.41 M")
    estimate.get_by_text("How this was estimated").click()
    expect(estimate).to_contain_text("Counted: weights")
    dataset = page.locator("#new-run").get_by_label("Dataset")
    dataset.fill("nowhere")
    dataset.press("Enter")
    place = page.locator("#estimate-pretrain")
    expect(place).to_contain_text("No estimate: ")
    expect(place).to_contain_text("nowhere")
    assert len(world.client.runs()["items"]) == before


@pytest.mark.extended
def test_curves_of_several_runs_lie_over_each_other_and_move(visitor: Any, page_url: str, world: Any) -> None:
    claims = {}
    for name, steps in (("left", 40), ("right", 60)):
        run_id = world.client.submit("pretrain", {"preset": "sample"}, name=name)["id"]
        claims[name] = world.claim(run_id)
        world.record(claims[name], *[line(step) | {"images_seen": 64 * step} for step in range(5, steps + 5, 5)])
    page = visitor.open(f"{page_url}/?run={claims['left'].run_id}", scheme="dark")
    expect(page.get_by_role("img", name="Contrastive loss: 0.800 at step 5")).to_be_visible()
    expect(page.get_by_label("Metrics")).to_be_hidden()
    box = page.get_by_label("Compare with")
    box.focus()
    box.press_sequentially("right")
    box.press("Enter")
    chart = page.get_by_role("img", name="Loss over steps. left")
    reported = re.compile(r"left · \w+: 12\.800 at 5, 1\.600 at 40; right .*1\.067 at 60")
    expect(chart).to_have_attribute("aria-label", reported)
    key = page.get_by_role("list", name="Runs in the chart").get_by_role("listitem")
    expect(key).to_have_count(2)
    expect(key.nth(1)).to_contain_text("Running")
    world.record(claims["right"], line(80) | {"images_seen": 64 * 80})
    expect(chart).to_have_attribute("aria-label", re.compile(r"0\.800 at 80$"))
    page.get_by_role("radio", name="Images", exact=True).press("Space")
    expect(page.get_by_role("img", name="Loss over images seen. left")).to_have_attribute(
        "aria-label", re.compile(r"0\.800 at 5,120$")
    )
    page.locator(".lcl-overlay .lcl-plot").hover()
    expect(page.locator(".lcl-overlay .lcl-cursor")).to_have_attribute("data-words", re.compile("left .*\nright "))
    assert serious(page, "dark") == []
    page.wait_for_url(f"**/?tab=runs&*with={claims['right'].run_id}&over=images_seen*")
    page.reload()
    expect(page.get_by_role("img", name="Loss over images seen. left")).to_have_attribute(
        "aria-label", re.compile(r"0\.800 at 5,120$")
    )
    expect(page.get_by_role("radio", name="Images", exact=True)).to_be_checked()
    metrics = page.get_by_label("Metrics")
    metrics.focus()
    metrics.press_sequentially("Contrastive l")
    metrics.press("Enter")
    expect(page.locator(".lcl-panels figure")).to_have_count(2)
    expect(page.get_by_role("img", name="Contrastive loss over images seen. left")).to_be_visible()
    assert serious(page, "dark") == []
    page.wait_for_url("**metric=loss%2Ccontrastive_loss**")
    page.reload()
    expect(page.locator(".lcl-panels figure")).to_have_count(2)
    page.locator("#compare-with").get_by_role("button", name=re.compile("Remove")).first.click()
    expect(page.get_by_role("img", name="Contrastive loss: 0.800 at step 5")).to_be_visible()
    for claim in claims.values():
        world.client.cancel(claim.run_id)


@pytest.mark.extended
def test_fields_and_editor_stay_in_step(visitor: Any, page_url: str) -> None:
    page = open_form(visitor, page_url)
    page.get_by_label("Image size").fill("96")
    page.get_by_role("button", name="Full spec (JSON)").click()
    editor = page.locator("#new-run .cm-content")
    expect(editor).to_contain_text('"image_size": 96')
    spec = {"preset": "sample", "steps": 88}
    editor.fill(json.dumps(spec))
    expect(page.get_by_label("Steps")).to_have_value("88")
    editor.fill('{"steps": ')
    expect(page.locator("#verdict-pretrain").get_by_role("alert")).to_contain_text("line 1")


@pytest.mark.extended
def test_a_failed_run_says_why(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    page.locator("#run-list").get_by_role("button", name="too large").click()
    head = page.locator("#run-head")
    expect(head).to_contain_text("Failed")
    expect(head.locator(".lcl-problem")).to_contain_text("batch.tokens")
    expect(head.locator(".lcl-problem")).to_contain_text("ran out of memory")
    expect(page.locator("#run-head [data-pick^='retry:']")).to_have_count(1)
    expect(page.locator("#run-head [data-pick^='cancel:']")).to_have_count(0)


def test_a_shared_evaluation_answers_on_the_first_screen_of_a_phone(visitor: Any, page_url: str, world: Any) -> None:
    run = next(run for run in world.client.runs()["items"] if run["name"] == "examined")
    page = visitor.open(f"{page_url}/?run={run['id']}", width=390, height=844)
    figure = page.locator(".lcl-bars li", has_text="Finds the image for a text")
    expect(figure).to_contain_text("17.1 %")
    expect(figure).to_contain_text("14.2–20.3")
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("examined")
    expect(page.get_by_label("Compare with")).to_be_hidden()
    for shown in (page.locator("#run-head h2"), figure.locator("b")):
        assert shown.bounding_box()["y"] < 420
    fold = page.locator("#run-details summary", has_text="All 2 figures")
    fold.click()
    values = page.get_by_role("region", name="All figures").locator("tbody td:nth-child(4)")
    expect(values).to_have_text(["17.1 %", "41.7 %"])
    page.get_by_role("columnheader", name="Value").click()
    expect(values).to_have_text(["41.7 %", "17.1 %"])
    assert serious(page, "light") == []


@pytest.mark.extended
def test_a_link_to_a_run_that_is_gone_says_so(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?run=run_gone")
    expect(page.locator("#run-head").get_by_role("alert")).to_contain_text("There is no run of this name")
    expect(page.locator("#run-list").get_by_role("button", name="examined")).to_be_visible()


@pytest.mark.extended
def test_the_list_is_filtered_by_kind(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=runs")
    runs = page.locator("#run-list").get_by_role("button")
    expect(runs.filter(has_text="too large")).to_have_count(1)
    page.get_by_role("radio", name="Evaluate").locator("..").click()
    expect(runs).to_have_count(1)
    expect(runs).to_contain_text("examined")


@pytest.mark.extended
def test_without_runs_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(f"{empty_url}/?tab=runs")
    expect(page.get_by_text("No runs yet")).to_be_visible()


@pytest.mark.extended
def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(f"{away_url}/?tab=runs")
    expect(page.locator("#run-list").get_by_role("alert")).to_contain_text("no answer from")


@pytest.mark.extended
def test_a_run_is_deleted_after_a_question(visitor: Any, page_url: str, world: Any) -> None:
    run = world.client.submit("validate", {"dataset": "sample"}, name="to be deleted")["id"]
    world.client.cancel(run)
    page = visitor.open(f"{page_url}/?run={run}")
    question = page.get_by_role("alertdialog")
    press(page, "delete")
    expect(question).to_contain_text("Delete to be deleted?")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    assert serious(page, "light") == []
    page.keyboard.press("Enter")
    expect(question).to_be_hidden()
    assert world.client.run(run)["state"] == "cancelled"
    press(page, "delete")
    question.get_by_role("button", name="Delete run").click()
    expect(page.locator("#run-list").get_by_role("button", name="to be deleted")).to_have_count(0)
    expect(page.locator("#run-head").get_by_role("heading")).not_to_have_text("to be deleted")


LINES = """(form) => [...form.querySelectorAll('.block')].filter((block) => block.checkVisibility()
    && !block.querySelector(':scope > .checkbox-container')).map((block) => {
  const top = (node) => node ? Math.round(node.getBoundingClientRect().top) : null;
  return [top(block), top(block.querySelector('[data-testid=block-info]')),
    top(block.querySelector('input:is([type=number], [type=text]), .wrap-inner, [data-testid=checkbox-group]'))];
})"""


@pytest.mark.extended
@pytest.mark.parametrize("width", [1360, 1000, 390])
@pytest.mark.parametrize("kind", ["Pre-train", "Evaluate"])
def test_labels_and_controls_of_a_row_are_in_line(visitor: Any, page_url: str, kind: str, width: int) -> None:
    page = visitor.open(f"{page_url}/?tab=runs", width=width)
    page.get_by_role("button", name="New run").click()
    page.locator("#new-run").get_by_text(kind, exact=True).click()
    verdict = page.locator(f"#verdict-{kind.lower().replace('-', '')}")
    expect(verdict).to_be_visible()
    form = page.locator(".lcl-form").filter(has=verdict).locator(".lcl-fields > .form")
    rows: dict[int, list[list[int]]] = {}
    for block, *tops in form.evaluate(LINES):
        rows.setdefault(block, []).append(tops)
    assert len(rows) > 1
    for row in rows.values():
        labels, controls = zip(*row, strict=True)
        assert max(labels) - min(labels) <= 1
        assert max(controls) - min(controls) <= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
