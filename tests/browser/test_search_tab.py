"""Search: by words, by picture, and from one hit to the next."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def results(page: Any) -> Any:
    return page.get_by_role("region", name="Search results")


def test_words_find_pictures(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_placeholder("Describe a picture").fill("ant")
    page.keyboard.press("Enter")
    hits = results(page).get_by_role("listitem")
    expect(hits).to_have_count(24)
    expect(results(page)).to_contain_text("closest to “ant”")
    expect(results(page)).to_contain_text("ms in the service")
    first = hits.first.locator("img")
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("image => image.naturalWidth") > 0


def test_an_example_searches_at_once(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="red apple").click()
    expect(results(page)).to_contain_text("“red apple”")
    expect(page.get_by_placeholder("Describe a picture")).to_have_value("red apple")


def test_a_hit_leads_to_its_neighbours_by_keyboard(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="house").click()
    hit = results(page).get_by_role("button").nth(2)
    words = hit.locator(".lcl-card__words").inner_text()
    hit.focus()
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("closest to this picture")
    expect(results(page).get_by_role("button").first).to_contain_text(words)  # a picture is its own nearest
    expect(page.get_by_role("radio", name="Image → images")).to_be_checked()


def test_an_uploaded_picture_finds_texts_and_a_text_its_pictures(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(page_url)
    page.get_by_text("Image → texts").click()
    expect(page.get_by_text("Which picture?")).to_be_visible()
    files: Any = {"name": "query.png", "mimeType": "image/png", "buffer": png}
    page.locator("input[type=file]").first.set_input_files(files)
    expect(results(page)).to_contain_text("texts closest to your picture")
    text = results(page).get_by_role("button").first
    words = text.locator("span").first.inner_text()
    text.click()
    expect(results(page)).to_contain_text(f"pictures closest to “{words}”")
    expect(page.get_by_placeholder("Describe a picture")).to_have_value(words)


def test_fewer_results_can_be_asked_for(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="dog").click()
    expect(results(page).get_by_role("listitem")).to_have_count(24)
    page.get_by_label("Results", exact=True).click()
    page.get_by_role("option", name="12").click()
    expect(results(page).get_by_role("listitem")).to_have_count(12)


def test_without_a_collection_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(empty_url)
    expect(page.get_by_text("No collection yet")).to_be_visible()
    expect(page.get_by_text("Submit an index run")).to_be_visible()


def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(away_url)
    expect(page.get_by_text("Service unreachable")).to_be_visible()
    expect(page.get_by_role("alert").first).to_contain_text("no answer from")
    assert "Traceback" not in page.content()
