"""The encoders: one is renamed and pinned, and every form offers it first then."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser


def test_an_encoder_is_renamed_and_pinned(visitor: Any, page_url: str, world: Any) -> None:
    encoder = world.client.encoder("plain")["id"]
    page = visitor.open(f"{page_url}/?tab=encoders&encoder={encoder}")
    cards, menu = page.locator("#encoders"), page.get_by_label("Actions").first
    menu.click()
    rename, name = cards.get_by_role("button", name="Rename"), page.get_by_label("New name")
    rename.click()
    expect(name).to_be_focused()
    page.keyboard.press("Escape")
    expect(name).to_have_count(0)
    expect(menu).to_be_focused()
    page.keyboard.press("Enter")
    rename.click()
    expect(name).to_be_focused()
    page.keyboard.type("tiny")
    page.keyboard.press("Enter")
    expect(cards.get_by_role("alert")).to_contain_text("another encoder is named 'tiny'")
    expect(name).to_have_value("tiny")
    expect(name).to_be_focused()
    assert serious(page, "light") == []
    name.fill("plainer")
    page.locator(".lcl-rename").get_by_role("button", name="Rename").click()
    expect(cards.get_by_role("heading", name="plainer")).to_be_visible()
    try:
        menu.click()
        cards.get_by_role("button", name="Pin", exact=True).click()
        expect(cards.get_by_label("pinned")).to_be_visible()
        page = visitor.open(f"{page_url}/?tab=try")
        expect(page.locator("#tab-try").get_by_label("Encoder").first).to_have_value("plainer")
    finally:
        world.client.change_encoder(encoder, name="plain", pinned=False)


def test_two_rows_are_chosen_and_compared_with_few_controls(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=encoders", scheme="dark")
    page.locator(".lcl-encoders li").nth(1).wait_for()
    controls = page.locator("#tab-encoders :is(button, input, select, textarea, summary):visible")
    assert controls.count() - page.locator(".lcl-encoders :is(button, input):visible").count() <= 5
    for name in ("tiny", "plain"):
        page.get_by_role("checkbox", name=f"Compare {name}").click()
    page.get_by_role("button", name="Compare 2 of 2").click()
    expect(page.get_by_role("button", name="Evaluate both")).to_be_visible()
    assert serious(page, "dark") == []


def test_a_card_searches_with_its_encoder(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?encoder=tiny", width=390, height=844)
    page.get_by_label("Search with it").fill("ant")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Search results")).to_contain_text("ant")
