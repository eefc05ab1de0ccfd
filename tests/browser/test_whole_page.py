"""What holds on every tab: nothing sticks out on a narrow screen, dark mode stays, keys work, encoders are listed."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = [pytest.mark.browser, pytest.mark.extended]
READY = {
    "search": "#search-results .lcl-card",
    "map": "#map .lcl-legend button",
    "try": ".lcl-samples a",
    "data": "#documents article",
    "runs": "#run-list button",
    "encoders": "#encoders li",
    "service": "#service-admins summary",
}


def open_form(page: Any, tab: str) -> None:
    """What a tab keeps folded: the form of a run, with what the run would take."""
    if tab == "runs":
        page.locator("#run-menus").get_by_text("New run").click()
        page.get_by_role("link", name="Pre-train").click()
        page.get_by_role("region", name="Estimate").wait_for()


def switch_scheme(page: Any) -> None:
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("button", name="Light or dark").click()
    page.keyboard.press("Escape")


@pytest.mark.parametrize("tab", READY)
def test_nothing_sticks_out_on_a_narrow_screen(visitor: Any, page_url: str, tab: str) -> None:
    page = visitor.open(f"{page_url}/?tab={tab}", width=390, height=844)
    page.locator(READY[tab]).first.wait_for()
    open_form(page, tab)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    beyond = page.evaluate(
        "[...document.querySelectorAll('button, input, textarea, h1, h2, h3, img')]"
        ".filter(e => e.checkVisibility())"
        ".filter(e => !e.closest('[role=tablist], .lcl-table, .lcl-log, .cm-editor, .visually-hidden'))"
        ".filter(e => e.getBoundingClientRect().right > 391).map(e => e.outerHTML.slice(0, 120))"
    )
    assert beyond == []


def test_dark_follows_the_system_and_the_switch_is_remembered(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    switch_scheme(page)
    expect(page.locator("body.dark")).to_have_count(0)
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    page.get_by_role("heading", name="LCL", exact=True).wait_for()
    expect(page.locator("body.dark")).to_have_count(0)
    assert page.evaluate(background) == light


def test_encoders_are_listed_with_their_figures(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Encoders").click()
    row = page.locator(".lcl-encoders li").filter(has_text="tiny")
    expect(row).to_contain_text("text → image")
    row.get_by_role("button", name="tiny").click()
    page.get_by_text("Download", exact=True).click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="transformers").click()
    assert waiting.value.suggested_filename.endswith("-huggingface.tar")
    assert waiting.value.failure() is None
    expect(page.get_by_role("tab")).to_have_count(8)


def test_tabs_and_search_work_with_keys_alone(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Runs").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Search").focus()
    page.keyboard.press("Enter")
    page.get_by_placeholder("Describe an image").focus()
    page.keyboard.type("cake")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Search results")).to_contain_text("“cake”")


@pytest.mark.parametrize(("tab", "first"), [("search", "Collection"), ("runs", "Preset")])
def test_a_menu_that_the_tab_key_leaves_is_closed(visitor: Any, page_url: str, tab: str, first: str) -> None:
    page = visitor.open(f"{page_url}/?tab={tab}")
    page.locator(READY[tab]).first.wait_for()
    open_form(page, tab)
    page.get_by_label(first, exact=True).focus()
    expect(page.locator("ul[role=listbox]:visible")).to_have_count(1)
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator("input:focus[role=listbox], input:focus.border-none")).to_have_count(0)
    expect(page.locator("ul[role=listbox]:visible")).to_have_count(0)


@pytest.mark.parametrize("tab", READY)
def test_axe_finds_nothing_serious_in_light_and_dark(visitor: Any, page_url: str, tab: str) -> None:
    page = visitor.open(f"{page_url}/?tab={tab}")
    page.locator(READY[tab]).first.wait_for()
    open_form(page, tab)
    found = serious(page, "light")
    switch_scheme(page)
    page.locator("body.dark").wait_for()
    page.wait_for_function("!document.getAnimations().some(each => each instanceof CSSTransition)")  # colours change
    assert [*found, *serious(page, "dark")] == []


def test_the_state_of_the_service_is_shown(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    expect(page.locator("#service")).to_contain_text("Not ready")  # no broker in this house
