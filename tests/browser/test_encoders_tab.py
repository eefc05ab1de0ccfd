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
    cards = page.locator("#encoders")
    rename, name = cards.get_by_role("button", name="Rename"), page.get_by_label("New name")
    rename.click()
    expect(name).to_be_focused()
    page.keyboard.press("Escape")
    expect(name).to_have_count(0)
    expect(rename).to_be_focused()
    page.keyboard.press("Enter")
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
        cards.get_by_role("button", name="Pin", exact=True).click()
        expect(cards.get_by_text("Pinned", exact=True)).to_be_visible()
        page.reload()
        expect(cards.get_by_role("button", name="Unpin")).to_be_visible()
        page = visitor.open(f"{page_url}/?tab=try")
        expect(page.locator("#tab-try").get_by_label("Encoder").first).to_have_value("plainer")
    finally:
        world.client.change_encoder(encoder, name="plain", pinned=False)


def test_two_encoders_are_compared_and_a_hit_is_searched_with_both(visitor: Any, page_url: str, world: Any) -> None:
    tiny, plain = (world.client.encoder(name)["id"] for name in ("tiny", "plain"))
    page = visitor.open(f"{page_url}/?encoder={tiny}", scheme="dark")
    page.get_by_role("navigation", name="Compare with").get_by_role("link", name="plain").click()
    expect(page.get_by_text("Not evaluated on the same data")).to_be_visible()
    page.get_by_placeholder("What should both look for?").fill("ant")
    page.keyboard.press("Enter")
    both = page.get_by_role("region", name="Results of both")
    expect(both).to_contain_text("found by both for “ant”")
    page.wait_for_url(f"**encoder={tiny}&with={plain}&q=ant")
    for name in ("plain", "tiny"):
        expect(page.get_by_role("region", name=name, exact=True).get_by_role("listitem")).to_have_count(12)
    assert serious(page, "dark") == []
    hit = page.get_by_role("region", name="tiny", exact=True).get_by_role("button").nth(1)
    words = hit.locator(".lcl-card__words").inner_text().partition(". ")[2]
    hit.focus()
    page.keyboard.press("Enter")
    expect(both).to_contain_text("for this image")
    for name in ("plain", "tiny"):
        first = page.get_by_role("region", name=name, exact=True).get_by_role("button").first
        expect(first).to_contain_text(f"1. {words}")
        expect(first).to_contain_text("both · 1. there")
