"""The table of runs: sorted by its columns, filtered by a tag or a part of the name.

Tags and notes are edited beside the run.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = [pytest.mark.browser, pytest.mark.extended]


@pytest.fixture(scope="module")
def sweep(sweep_world: Any) -> dict[str, str]:
    """Three cancelled trainings with other losses and tags: their ids by name."""
    from lcl_core.db import complete_run, leases

    made = {}
    for name, loss, tags in (("low", 3.0, ["sweep"]), ("high", 5.0, ["sweep", "draft"]), ("middle", 4.0, [])):
        run_id = sweep_world.client.submit("pretrain", {"preset": "sample", "seed": int(loss)}, name, tags)["id"]
        claim = sweep_world.claim(run_id)
        with sweep_world.context.database.session() as session:
            leases.begin_attempt(session, claim, encoder_id=None, from_scratch=False)
        lines = [{"step": step, "total_steps": 60, "loss": loss, "images_per_s": 30 + step} for step in (20, 40, 60)]
        sweep_world.record(claim, *[{**each, "contrastive_loss": loss} for each in lines])
        sweep_world.settle(claim, complete_run.RunCancelled())
        made[name] = run_id
    return made


def names(page: Any) -> Any:
    return page.locator("#run-list tbody th[scope=row]")


def test_the_table_is_sorted_and_filtered_and_kept_by_the_address(
    visitor: Any, sweep_url: str, sweep: dict[str, str]
) -> None:
    page = visitor.open(f"{sweep_url}/?tab=runs")
    page.get_by_role("radio", name="Table").click()
    expect(names(page)).to_have_text(["middle", "high", "low"])
    page.get_by_role("button", name="Final loss or metric").click()
    expect(names(page)).to_have_text(["low", "middle", "high"])
    page.get_by_role("button", name="Final loss or metric").click()
    expect(names(page)).to_have_text(["high", "middle", "low"])
    page.get_by_role("group", name="Filter by tag").get_by_role("button", name="sweep").click()
    expect(names(page)).to_have_text(["high", "low"])
    page.wait_for_url("**tag=sweep**")
    page.reload()
    expect(names(page)).to_have_text(["high", "low"])
    page.get_by_role("button", name="low", exact=True).click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("low")
    assert serious(page, "light") == []


def test_runs_are_found_by_a_part_of_their_name(visitor: Any, sweep_url: str, sweep: dict[str, str]) -> None:
    page = visitor.open(f"{sweep_url}/?tab=runs&layout=table")
    expect(names(page)).to_have_text(["middle", "high", "low"])
    field = page.locator("#run-name-filter").get_by_role("textbox", name="Find runs")
    field.press_sequentially("HIG")
    expect(names(page)).to_have_text(["high"])
    expect(field).to_have_value("HIG")  # while the list is drawn anew, the field keeps what was typed
    page.wait_for_url("**name=HIG**")
    page.reload()
    expect(names(page)).to_have_text(["high"])
    expect(field).to_have_value("HIG")
    field.fill("nothing like it")
    expect(page.get_by_text("No run matches")).to_be_visible()
    assert serious(page, "light") == []
    field.fill("")
    expect(names(page)).to_have_text(["middle", "high", "low"])


def test_tags_and_notes_are_edited(visitor: Any, sweep_url: str, sweep_world: Any, sweep: dict[str, str]) -> None:
    page = visitor.open(f"{sweep_url}/?run={sweep['high']}")
    page.get_by_role("button", name="Tags and notes").click()
    expect(page.get_by_label("Tags")).to_have_value("draft sweep")
    page.get_by_label("Tags").fill("kept, two words/")
    page.get_by_label("Notes").fill("settled\nearly")
    page.locator("#run-annotate").click()
    expect(page.locator("#run-annotation").get_by_text("Saved.")).to_be_visible()
    page.get_by_label("Tags").fill("(bad)")
    expect(page.locator("#run-head")).to_contain_text("settled")
    expect(page.locator("#run-head .lcl-tags span")).to_have_text(["kept", "two", "words/"])
    expect(page.get_by_label("Tags")).to_have_value("(bad)")  # the refresh after the save keeps what was typed since
    run = sweep_world.client.run(sweep["high"])
    assert (run["tags"], run["notes"]) == (["kept", "two", "words/"], "settled\nearly")
    page.locator("#run-annotate").click()
    expect(page.locator("#run-annotation").get_by_role("alert")).to_contain_text("tags")


def test_specs_of_compared_runs_are_listed_where_they_differ(
    visitor: Any, sweep_url: str, sweep: dict[str, str]
) -> None:
    page = visitor.open(f"{sweep_url}/?run={sweep['low']}")
    page.get_by_label("Compare with").click()
    page.get_by_role("option", name="high").click()
    table = page.get_by_role("region", name="Differences of specs")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table.locator("tbody tr")).to_have_text("seed35")


def test_runs_that_are_chosen_in_the_table_are_deleted_together(
    visitor: Any, sweep_url: str, sweep_world: Any, sweep: dict[str, str]
) -> None:
    extra = [sweep_world.client.submit("pretrain", {"preset": "sample"}, name=name)["id"] for name in ("one", "two")]
    for run_id in extra:
        sweep_world.client.cancel(run_id)
    page = visitor.open(f"{sweep_url}/?tab=runs&layout=table")
    for name in ("one", "two"):
        page.get_by_role("checkbox", name=f"Choose {name}").click()
        expect(page.get_by_role("checkbox", name=f"Choose {name}")).to_be_checked()
    chosen = page.get_by_role("group", name="Chosen runs")
    expect(chosen).to_contain_text("2 runs chosen")
    expect(chosen.get_by_role("button", name="Cancel …"), "they have ended").to_have_count(0)
    assert serious(page, "light") == []
    chosen.get_by_role("button", name="Delete …").click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("Delete 2 runs?")
    expect(question.get_by_role("button", name="Keep them")).to_be_focused()
    question.get_by_role("button", name="Delete them").click()
    expect(names(page)).to_have_count(3)
    expect(chosen).to_have_count(0)
    assert {run["id"] for run in sweep_world.client.runs()["items"]} == set(sweep.values())


def test_older_runs_are_on_further_pages(visitor: Any, sweep_url: str, sweep_world: Any) -> None:
    for number in range(1, 53):
        sweep_world.client.submit("pretrain", {"preset": "sample", "seed": number}, f"run {number}", ["many"])
    page = visitor.open(f"{sweep_url}/?tab=runs&tag=many")
    listed, pages = page.locator("#run-list .lcl-runs b"), page.get_by_role("navigation", name="Pages of the list")
    expect(listed).to_have_count(50)
    expect(listed.first).to_have_text("run 52")
    assert serious(page, "light") == []
    pages.get_by_role("button", name="Older").click()
    expect(listed).to_have_text(["run 2", "run 1"])
    expect(pages).to_contain_text("Page 2")
    page.get_by_role("button", name="run 1").click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("run 1")
    expect(listed).to_have_text(["run 2", "run 1"])
    pages.get_by_role("button", name="Newer").click()
    expect(listed).to_have_count(50)
    page.get_by_role("radio", name="Table").click()
    expect(names(page)).to_have_count(52)
    expect(pages).to_have_count(0)
