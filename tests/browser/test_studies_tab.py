"""Studies: start one with an honest count, watch its table fill, see what each row costs, stop it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def typed(page: Any, label: str, text: str) -> None:
    """Key by key in place of what is there: a value that is set at once is no input to a text box."""
    page.get_by_label(label).click()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


@pytest.mark.extended
def test_a_table_fills_while_it_is_looked_at(visitor: Any, study_url: str, study_world: Any) -> None:
    page = visitor.open(f"{study_url}/?tab=studies")
    page.locator("#study-list").get_by_role("button", name="losses").click()
    expect(page.locator("#study-head").get_by_role("heading")).to_have_text("losses")
    expect(page.locator("#study-head")).to_contain_text("What does each part of the LCL loss do?")
    both = page.get_by_role("region", name="Table of the study").get_by_role("row").filter(has_text="both").last
    expect(both).to_contain_text("0.210")
    expect(both).to_contain_text("one seed")
    expect(both).to_contain_text("baseline")
    study = next(each for each in study_world.client.studies()["items"] if each["name"] == "losses")
    cells = study_world.client.study(study["id"])["cells"]
    waiting = next(each for each in cells if each["seed"] == 1 and each["labels"]["loss"] == "both")
    study_world.end_cell(study["id"], waiting["number"], 0.23)
    expect(both).to_contain_text("0.220 ± 0.014")
    expect(both.get_by_role("img", name="2 succeeded")).to_be_visible()
    expect(page.get_by_role("img", name="IR@5 over seconds of training: ")).to_be_visible()
    expect(page.get_by_role("img", name="loss, at the end: contrastive 3.1, generation 3.1, both 3.1")).to_be_visible()
    for label, choice, shown in (("Figure", "acc@1", "acc@1 over seconds"), ("Curve", "lr", "lr, at the end")):
        page.get_by_label(label, exact=True).click()
        page.get_by_role("option", name=choice, exact=True).click()
        expect(page.get_by_role("img", name=shown)).to_be_visible()
    expect(page.get_by_role("region", name="Table of the study")).to_contain_text("acc@1 against both")


@pytest.mark.extended
def test_a_built_in_study_is_counted_started_cancelled_and_resumed(
    visitor: Any, study_url: str, study_world: Any
) -> None:
    page = visitor.open(f"{study_url}/?tab=studies")
    page.get_by_role("button", name="New study").click()
    verdict = page.locator("#verdict-study")
    expect(verdict).to_contain_text("3 rows × 3 seeds = 9 pre-trainings and 9 evaluations; 6 of the pre-trainings are")
    typed(page, "Seeds", "0, 0")
    expect(verdict.get_by_role("alert")).to_contain_text("two seeds")
    typed(page, "Seeds", "7")
    page.get_by_label("Steps of each").fill("20")
    page.get_by_label("Name").fill("from the page")
    page.get_by_role("button", name="Full spec (JSON)").click()
    expect(page.locator("#new-study .cm-content")).to_contain_text('"steps": 20')
    expect(verdict).to_contain_text("3 rows × 1 seed = 3 pre-trainings and 3 evaluations.")
    page.locator("#submit-study").click()
    expect(verdict).to_contain_text("Submitted as study_")
    head = page.locator("#study-head")
    expect(head.get_by_role("heading")).to_have_text("from the page")
    expect(head).to_contain_text("3 queued")
    study = study_world.client.studies()["items"][0]
    run = study_world.client.run(study_world.client.study(study["id"])["cells"][0]["run"]["id"])
    assert (run["spec"]["seed"], run["spec"]["steps"]) == (7, 20)
    page.locator("#study-cancel").click()
    page.get_by_role("button", name="Cancel the study").click()
    expect(head).to_contain_text("3 cancelled")
    page.locator("#study-resume").click()
    expect(head).to_contain_text("3 queued")
    page.locator("#study-cancel").click()
    page.get_by_role("button", name="Cancel the study").click()
    expect(head).to_contain_text("3 cancelled")


def test_a_cell_leads_to_its_run_and_the_table_to_files(visitor: Any, study_url: str, study_world: Any) -> None:
    study = next(each for each in study_world.client.studies()["items"] if each["name"] == "losses")
    name = study_world.client.study(study["id"])["cells"][0]["run"]["id"]
    page = visitor.open(f"{study_url}/?tab=studies")
    page.locator("#study-list").get_by_role("button", name="losses").click()
    expect(page.locator("#study-head").get_by_role("heading")).to_have_text("losses")
    with page.expect_download() as download:
        page.get_by_role("link", name="table.csv").click()
    assert download.value.path().read_text().startswith("loss,steps,metric,mean")
    page.get_by_role("button", name="Cells and their runs").click()
    page.locator("#study-cells").get_by_role("link", name=name).click()
    expect(page.locator("#run-head")).to_contain_text(name)


@pytest.mark.extended
def test_nothing_sticks_out_on_a_narrow_screen(visitor: Any, study_url: str) -> None:
    page = visitor.open(f"{study_url}/?tab=studies", width=390, height=844)
    page.locator("#study-charts figure").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
