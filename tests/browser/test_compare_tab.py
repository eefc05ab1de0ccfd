"""Compare: two encoders side by side, and their figures."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser


def both(page: Any) -> Any:
    return page.get_by_role("region", name="Results of both")


def test_the_same_words_go_to_both_and_a_hit_to_both_again(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=compare", scheme="dark")
    expect(page.get_by_label("Encoder on the left")).to_have_value("plain")
    expect(page.get_by_label("Encoder on the right")).to_have_value("tiny")
    page.get_by_placeholder("What should both look for?").fill("ant")
    page.keyboard.press("Enter")
    expect(both(page)).to_contain_text("found by both for “ant”")
    for name in ("plain", "tiny"):
        expect(page.get_by_role("region", name=name, exact=True).get_by_role("listitem")).to_have_count(12)
    marked = page.get_by_role("region", name="plain", exact=True).get_by_role("button", name="of tiny")
    shared = int(both(page).locator("b").first.inner_text().split()[0])
    expect(marked).to_have_count(shared)
    assert serious(page, "dark") == []
    hit = page.get_by_role("region", name="tiny", exact=True).get_by_role("button").nth(1)
    words = hit.locator(".lcl-card__words").inner_text().partition(". ")[2]
    hit.focus()
    page.keyboard.press("Enter")
    expect(both(page)).to_contain_text("for this image")
    for name in ("plain", "tiny"):
        first = page.get_by_role("region", name=name, exact=True).get_by_role("button").first
        expect(first).to_contain_text(f"1. {words}")
        expect(first).to_contain_text("both · 1. there")


@pytest.mark.extended
def test_a_image_goes_to_both(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(f"{page_url}/?tab=compare")
    expect(page.get_by_label("Encoder on the right")).to_have_value("tiny")
    page.get_by_text("Image", exact=True).click()
    files: Any = {"name": "query.png", "mimeType": "image/png", "buffer": png}
    page.get_by_role("tabpanel").locator("input[type=file]").set_input_files(files)
    expect(both(page)).to_contain_text("for your image")
    page.get_by_label("Encoder on the right").click()
    page.get_by_role("option", name="plain").click()
    expect(page.get_by_text("The same encoder twice")).to_be_visible()


@pytest.mark.extended
def test_figures_of_both_appear_once_both_were_examined(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=compare")
    expect(page.get_by_text("No figures in common")).to_be_visible()
    run = world.examine(world.client.encoder("plain"), 0.091, "examined too")
    try:
        page.get_by_role("tab", name="Encoders").click()
        page.get_by_role("tab", name="Compare").click()
        row = page.get_by_role("region", name="Figures of both").get_by_role("row").filter(has_text="IR@5")
        expect(row).to_contain_text("0.091")
        expect(row).to_contain_text("+0.080")
        expect(row).to_contain_text("[0.142, 0.203]")
    finally:
        world.client.delete(run)


@pytest.mark.extended
def test_with_too_few_encoders_the_way_to_another_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(f"{empty_url}/?tab=compare")
    expect(page.get_by_text("Two encoders are needed")).to_be_visible()
