"""Saved views in a browser: what is shown gets a name, and the name leads back to it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = [pytest.mark.browser, pytest.mark.extended]


def test_a_view_is_saved_found_replaced_and_deleted(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}?q=ant")
    expect(page.get_by_role("region", name="Search results")).to_contain_text("closest to “ant”")
    button, panel = page.get_by_role("button", name="Views"), page.locator("#views-panel")
    expect(panel).to_be_hidden()
    button.click()
    expect(panel).to_contain_text("No view is saved yet")
    panel.get_by_label("Save what is shown as").fill("ants & <b>")
    panel.get_by_role("button", name="Save").click()
    expect(panel).to_contain_text("Saved as ants & <b>.")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(button).to_be_focused()

    page.get_by_role("tab", name="Runs").click()
    page.wait_for_url("**/?tab=runs*")
    button.click()
    expect(panel.get_by_role("link", name="ants & <b>")).to_be_visible()
    assert serious(page, "light") == []
    panel.get_by_role("link", name="ants & <b>").click()
    expect(panel).to_be_hidden()
    page.wait_for_url("**/?q=ant")
    expect(page.get_by_role("region", name="Search results")).to_contain_text("closest to “ant”")

    page.get_by_role("tab", name="Runs").click()
    page.wait_for_url("**/?tab=runs*")
    button.click()
    panel.get_by_label("Save what is shown as").fill("ants & <b>")
    panel.get_by_role("button", name="Save").click()
    panel.get_by_role("button", name="Replace").click()
    expect(panel).to_contain_text("Saved as ants & <b>.")
    expect(panel.get_by_role("listitem")).to_contain_text("Runs")
    panel.get_by_role("button", name="Delete view ants & <b>").click()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(panel).to_contain_text("No view is saved yet")
    page.mouse.click(5, 500)
    expect(panel).to_be_hidden()


def test_a_view_of_the_first_page_leads_back_to_it(visitor: Any, empty_url: str) -> None:
    page = visitor.open(empty_url)
    page.get_by_text("No collection yet").wait_for()
    button, panel = page.get_by_role("button", name="Views"), page.locator("#views-panel")
    button.click()
    panel.get_by_label("Save what is shown as").fill("front")
    panel.get_by_role("button", name="Save").click()
    expect(panel).to_contain_text("Saved as front.")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_url("**/?tab=runs*")
    button.click()
    panel.get_by_role("link", name="front").click()
    page.wait_for_url(f"{empty_url}/")
    expect(page.get_by_role("tab", name="Search")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("No collection yet")).to_be_visible()
    button.click()
    panel.get_by_role("button", name="Delete view front").click()
    panel.get_by_role("button", name="Delete", exact=True).click()
    expect(panel).to_contain_text("No view is saved yet")
