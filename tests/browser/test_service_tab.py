"""The tab for admins: it is theirs alone, keys are made and revoked, and axe finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser
CONTROLS = """[...document.querySelectorAll('#tab-service :is(button, input, select, summary)')]
  .filter(each => each.checkVisibility() && !each.closest('td, .lcl-table')).length"""


@pytest.mark.extended
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_workers_queue_keys_and_audit_are_there(
    visitor: Any, page_url: str, world: Any, scheme: str, width: int
) -> None:
    run = world.client.submit("validate", {"dataset": "sample"}, name="waits for a worker")["id"]
    try:
        page = visitor.open(f"{page_url}/?tab=service", width=width, scheme=scheme)
        queue = page.get_by_role("region", name="Queue")
        expect(queue.get_by_role("row").filter(has_text="waits for a worker")).to_contain_text("no worker is alive")
        expect(page.locator("#service-shown")).to_contain_text("Not ready · 1 run waiting")
        expect(page.locator("#service-shown")).to_contain_text("none gave a sign of life lately; start one")
        folds = page.locator("#tab-service summary")
        expect(folds).to_have_count(3)
        assert page.evaluate(CONTROLS) == 3
        for fold in folds.all():
            fold.click()
        expect(page.get_by_role("region", name="Audit log")).to_contain_text("runs.submit")
        expect(page.get_by_role("region", name="Keys")).to_contain_text("in use here")
        assert serious(page, scheme) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
        queue.get_by_role("link", name="waits for a worker").click()
        expect(page.locator("#run-head").get_by_role("heading")).to_have_text("waits for a worker")
    finally:
        world.client.cancel(run)


@pytest.mark.extended
def test_a_run_is_paused_and_cancelled_from_the_queue(visitor: Any, page_url: str, world: Any) -> None:
    run = world.client.submit("validate", {"dataset": "sample"}, name="to be cancelled")["id"]
    try:
        page = visitor.open(f"{page_url}/?tab=service")
        row = page.get_by_role("region", name="Queue").get_by_role("row").filter(has_text="to be cancelled")
        row.get_by_role("button", name="Pause to be cancelled").click()
        expect(row).to_contain_text("Held back until it is resumed.")
        row.get_by_role("button", name="Cancel to be cancelled").click()
        question = page.get_by_role("alertdialog")
        expect(question.get_by_role("button", name="Keep running")).to_be_focused()
        assert serious(page, "light") == []
        page.keyboard.press("Escape")
        expect(question).to_have_count(0)
        expect(row.get_by_role("button", name="Cancel to be cancelled")).to_be_focused()
        page.keyboard.press("Enter")
        question.get_by_role("button", name="Cancel run").click()
        expect(row).to_have_count(0)
        expect(page.locator(".lcl-panel:focus"), "the button is gone").to_contain_text("Not ready")
        assert world.client.run(run)["state"] == "cancelled"
    finally:
        if world.client.run(run)["state"] != "cancelled":
            world.client.cancel(run)


def test_a_key_is_made_shown_once_and_revoked(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=service")
    page.locator("#service-admins summary").first.click()
    page.get_by_label("Owner of a new key").fill("grace")
    page.get_by_role("button", name="Submitter").click()
    expect(page.locator(".lcl-secret code")).to_contain_text(".")
    row = page.get_by_role("region", name="Keys").get_by_role("row").filter(has_text="grace")
    expect(row).to_contain_text("submitter")
    row.get_by_role("button", name="Revoke the key of grace").click()
    question = page.get_by_role("alertdialog")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    assert serious(page, "light") == []
    question.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    keys = world.client.keys()
    assert "grace" not in [key["owner"] for key in keys]
    expect(page.locator(".lcl-secret")).to_have_count(0)


@pytest.mark.extended
def test_who_is_no_admin_sees_no_keys(visitor: Any, team_url: str, world: Any) -> None:
    made = world.client.create_key("viola", "viewer")
    try:
        page = visitor.open(f"{team_url}/?tab=service")
        page.get_by_label("API key").fill(made["key"])
        page.get_by_label("API key").press("Enter")
        expect(page.locator("#service-shown")).to_contain_text("Storage")
        expect(page.locator("#service-admins summary")).to_have_count(0)
    finally:
        world.client.revoke_key(made["prefix"])
