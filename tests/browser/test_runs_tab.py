"""Runs: one table beside what is open; forms that start a run or a study; and what a wrong spec is answered with."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser


def open_form(visitor: Any, url: str, kind: str = "Pre-train") -> Any:
    page = visitor.open(f"{url}/?tab=runs")
    page.locator("#run-menus").get_by_text("New run").click()
    page.get_by_role("link", name=kind, exact=True).click()
    if kind in ("Pre-train", "Study"):
        expect(page.locator(".lcl-form:visible").get_by_text(re.compile("≈|pre-trainings")).first).to_be_visible()
    return page


def names(page: Any) -> Any:
    return page.locator("#run-list tbody th[scope=row]")


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


def test_a_run_is_started_watched_cancelled_and_resumed(visitor: Any, page_url: str, world: Any) -> None:
    from lcl_core.db import complete_run

    page = open_form(visitor, page_url)
    page.get_by_label("Name", exact=True).fill("from the page")
    page.get_by_label("Steps").fill("0")
    page.get_by_role("button", name="Start run").click()
    expect(page.get_by_text("Steps: at least 1.")).to_be_visible()
    expect(page.get_by_label("Steps")).to_be_focused()
    page.get_by_label("Steps").fill("100")
    page.get_by_role("button", name="Start run").click()
    head = page.locator("#run-head")
    expect(head.get_by_role("heading")).to_have_text("from the page")
    expect(page.locator("#new-run form")).to_be_hidden()
    expect(head).to_contain_text("Queued")
    run = world.client.runs(state="queued")["items"][0]
    assert run["spec"]["steps"] == 100

    claim = world.claim(run["id"])
    world.record(claim, *[line(step) for step in range(5, 45, 5)])
    expect(head.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    head.get_by_text("⋯").click()
    head.get_by_role("button", name="Cancel").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("A checkpoint is written first; nothing is lost.")
    question.get_by_role("button", name="Cancel run").click()
    expect(head).to_contain_text("Stopping")
    world.settle(claim, complete_run.RunCancelled())
    head.get_by_role("button", name="Resume").click()
    expect(head).to_contain_text("Queued")
    world.client.cancel(run["id"])


@pytest.mark.extended
def test_an_index_never_replaces_a_collection_silently(visitor: Any, page_url: str, world: Any) -> None:
    before = len(world.client.runs(kind="index")["items"])
    page = open_form(visitor, page_url, "Index")
    form = page.locator("#form-index")
    name = form.get_by_role("textbox", name="Collection")
    expect(name).to_have_value(re.compile("sample-"))
    name.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("drawings")
    page.keyboard.press("Tab")
    form.get_by_text("Replace it").click()
    page.get_by_role("button", name="Start run").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("Replace drawings?")
    expect(question).to_contain_text("images and tags are deleted")
    question.get_by_role("button", name="Keep it").click()
    expect(question).to_be_hidden()
    assert len(world.client.runs(kind="index")["items"]) == before
    form.get_by_text("New name").click()
    expect(name).to_have_value(re.compile("sample-"))
    assert serious(page, "light") == []


@pytest.mark.extended
def test_the_table_is_filtered_sorted_and_kept_by_its_address(visitor: Any, sweep_url: str, sweep_world: Any) -> None:
    for name, seed in (("low", 3), ("high", 20)):
        sweep_world.client.submit("pretrain", {"preset": "sample", "seed": seed}, name, ["sweep"])
    sweep_world.client.submit("validate", {"dataset": "sample"}, "other")
    page = visitor.open(f"{sweep_url}/?tab=runs")
    expect(names(page)).to_have_text(["other", "high", "low"])
    controls = "#tab-runs :is(button, input, textarea, summary, a)"
    count = (
        f"[...document.querySelectorAll('{controls}')].filter(e => e.checkVisibility() && !e.closest('table')).length"
    )
    assert page.evaluate(count) <= 5
    page.locator("#run-menus").get_by_text("Filter").click()
    page.get_by_role("group", name="Tag").get_by_role("button", name="sweep").click()
    expect(names(page)).to_have_text(["high", "low"])
    page.locator("#run-menus summary").filter(has_text="Columns").click()
    page.locator("#run-menus").get_by_role("button", name="Seed").click()
    page.locator("#run-list").get_by_role("button", name="Seed").click()
    expect(names(page)).to_have_text(["low", "high"])
    page.wait_for_url("**sort=seed**")
    page.reload()
    expect(names(page)).to_have_text(["low", "high"])
    page.get_by_role("textbox", name="Find runs").press_sequentially("HIG")
    expect(names(page)).to_have_text(["high"])
    names(page).get_by_role("button").click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("high")
    expect(page.locator("#run-list")).to_be_visible()
    assert serious(page, "light") == []


@pytest.mark.extended
def test_a_study_is_started_and_opens_beside_the_table(visitor: Any, study_url: str, study_world: Any) -> None:
    page = open_form(visitor, study_url, "Study")
    seeds = page.locator("#form-study").get_by_label("Seeds")
    seeds.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    page.keyboard.press("Tab")
    expect(page.locator("#estimate")).to_contain_text("3 rows × 1 seed = 3 pre-trainings and 3 evaluations.")
    page.get_by_role("button", name="Start run").click()
    head = page.locator("#opened-run")
    expect(head).to_contain_text("3 queued")
    head.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the study").click()
    expect(head).to_contain_text("3 cancelled")
    names(page).get_by_role("button").filter(has_text="losses").click()
    table = page.get_by_role("region", name="Table of the study")
    expect(table.get_by_role("row").filter(has_text="both").last).to_contain_text("21.0 %")
    with page.expect_download() as download:
        page.get_by_role("link", name="table.csv").click()
    assert download.value.path().read_text().startswith("loss,steps,metric,mean")
    head.get_by_role("link", name="Its runs").click()
    expect(names(page)).to_have_count(9)
    names(page).get_by_role("button").first.click()
    expect(page.locator("#run-head h2")).to_be_visible()


@pytest.mark.extended
def test_curves_of_several_runs_lie_over_each_other_and_move(visitor: Any, page_url: str, world: Any) -> None:
    claims = {}
    for name, steps in (("left", 40), ("right", 60)):
        run_id = world.client.submit("pretrain", {"preset": "sample"}, name=name)["id"]
        claims[name] = world.claim(run_id)
        world.record(claims[name], *[line(step) | {"images_seen": 64 * step} for step in range(5, steps + 5, 5)])
    page = visitor.open(f"{page_url}/?run={claims['left'].run_id}", scheme="dark")
    expect(page.get_by_role("img", name="Contrastive loss: 0.800 at step 5")).to_be_visible()
    menu = page.locator("#run-head .lcl-menu--words")
    menu.locator("summary").click()
    expect(menu.get_by_role("group", name="Metrics")).to_be_hidden()
    menu.get_by_role("button", name="right").click()
    chart = page.get_by_role("img", name="Loss over steps. left")
    reported = re.compile(r"left · \w+: 12\.800 at 5, 1\.600 at 40; right .*1\.067 at 60")
    expect(chart).to_have_attribute("aria-label", reported)
    key = page.get_by_role("list", name="Runs in the chart").get_by_role("listitem")
    expect(key).to_have_count(2)
    expect(key.nth(1)).to_contain_text("Running")
    world.record(claims["right"], line(80) | {"images_seen": 64 * 80})
    expect(chart).to_have_attribute("aria-label", re.compile(r"0\.800 at 80$"))
    menu.get_by_role("button", name="Images seen").click()
    expect(page.get_by_role("img", name="Loss over images seen. left")).to_have_attribute(
        "aria-label", re.compile(r"0\.800 at 5,120$")
    )
    menu.locator("summary").click()
    page.locator(".lcl-overlay .lcl-plot").hover()
    expect(page.locator(".lcl-overlay .lcl-cursor")).to_have_attribute("data-words", re.compile("left .*\nright "))
    assert serious(page, "dark") == []
    page.wait_for_url(f"**/?tab=runs&*with={claims['right'].run_id}&over=images_seen*")
    page.reload()
    expect(page.get_by_role("img", name="Loss over images seen. left")).to_have_attribute(
        "aria-label", re.compile(r"0\.800 at 5,120$")
    )
    menu.locator("summary").click()
    expect(menu.get_by_role("button", name="Images seen")).to_have_attribute("aria-pressed", "true")
    menu.get_by_role("button", name="Contrastive loss").click()
    expect(page.locator(".lcl-panels figure")).to_have_count(2)
    expect(page.get_by_role("img", name="Contrastive loss over images seen. left")).to_be_visible()
    assert serious(page, "dark") == []
    page.wait_for_url("**metric=loss%2Ccontrastive_loss**")
    page.reload()
    expect(page.locator(".lcl-panels figure")).to_have_count(2)
    menu.locator("summary").click()
    menu.get_by_role("button", name="right").click()
    expect(page.get_by_role("img", name="Contrastive loss: 0.800 at step 5")).to_be_visible()
    for claim in claims.values():
        world.client.cancel(claim.run_id)


@pytest.mark.extended
def test_fields_and_json_stay_in_step_and_a_draft_stays(visitor: Any, page_url: str) -> None:
    page = open_form(visitor, page_url)
    page.get_by_label("Image size").fill("96")
    page.get_by_label("Steps").fill("77")
    page.get_by_text("Full spec (JSON)").click()
    editor = page.get_by_role("textbox", name="Spec")
    expect(editor).to_have_value(re.compile('"image_size": 96'))
    editor.fill(json.dumps({"preset": "sample", "steps": 88}))
    page.get_by_label("Seed").click()
    expect(page.get_by_label("Steps")).to_have_value("88")
    editor.fill('{"steps": ')
    page.get_by_label("Seed").click()
    expect(page.locator("#new-run").get_by_role("alert")).to_contain_text("line 1")
    page.reload()
    page.get_by_text("Full spec (JSON)").click()
    expect(editor).to_have_value('{"steps": ')


LINES = """(form) => [...form.querySelectorAll('.lcl-field:has(> :is(label, legend))')].map((field) => {
  const top = (what) => Math.round(field.querySelector(what).getBoundingClientRect().top);
  return [field.getBoundingClientRect().top, top('label, legend'), top(':scope > :is(div, input, select)')];
})"""


@pytest.mark.extended
@pytest.mark.parametrize("width", [1360, 1000, 390])
@pytest.mark.parametrize("kind", ["pretrain", "evaluate"])
def test_labels_and_controls_of_a_row_are_in_line(visitor: Any, page_url: str, kind: str, width: int) -> None:
    page = visitor.open(f"{page_url}/?tab=runs&new={kind}", width=width)
    form = page.locator(f"#form-{kind} .lcl-fields")
    expect(form).to_be_visible()
    rows: dict[int, list[list[int]]] = {}
    for block, *tops in form.evaluate(LINES):
        rows.setdefault(block, []).append(tops)
    assert len(rows) > 1
    for row in rows.values():
        labels, controls = zip(*row, strict=True)
        assert max(labels) - min(labels) <= 1
        assert max(controls) - min(controls) <= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"


@pytest.mark.extended
def test_on_a_phone_a_linked_run_is_in_view_and_two_chosen_ones_are_compared(
    visitor: Any, page_url: str, world: Any
) -> None:
    runs = [world.client.submit("pretrain", {"preset": "sample"}, name=name)["id"] for name in ("one", "two")]
    page = visitor.open(f"{page_url}/?run={runs[0]}", width=390, height=844)
    head = page.locator("#run-head h2")
    expect(head).to_have_text("one")
    page.wait_for_function("document.querySelector('#run-head h2').getBoundingClientRect().bottom < 420")
    expect(page.locator("#run-list")).to_be_hidden()
    page.get_by_role("link", name="‹ Runs").click()
    for name in ("one", "two"):
        page.get_by_role("checkbox", name=f"Choose {name}").click()
    page.get_by_role("link", name="Compare", exact=True).click()
    expect(page.locator(".lcl-overlay")).to_be_visible()
    for run_id in runs:
        world.client.cancel(run_id)
