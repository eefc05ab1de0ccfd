"""Data: documents with their images in the text, found, tagged, and sent on to a run or deleted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
CONTROLS = """[...document.querySelectorAll('#tab-data :is(button, input, textarea, summary, a)')]
  .filter(each => each.checkVisibility() && !each.closest('#documents')).length"""


@pytest.fixture(scope="module")
def odd(world: Any, sample_zip: Path) -> str:
    """A dataset with hostile words, an image that is missing, and a document that is empty."""
    from lcl_core.data import open_corpus

    folder = world.home / "incoming" / "weird"
    (folder / "images").mkdir(parents=True)
    pair = open_corpus(sample_zip).pairs("test_vendor")[0]
    (folder / "images" / "there.webp").write_bytes(open_corpus(sample_zip).image_bytes(pair.image))
    images = [
        {"image_name": name, "matched_text_index": 1, "matched_sim": 0.31} for name in ("there.webp", "absent.png")
    ]
    document = {"id": HOSTILE, "text_list": [HOSTILE, "Second."], "image_info": images}
    rows = [document, {"text_list": [], "image_info": []}]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world.client.register_dataset("weird", str(folder))["name"]


@pytest.fixture(scope="module")
def pages(world: Any) -> str:
    """A dataset of thirty documents of a sentence each."""
    folder = world.home / "incoming" / "pages"
    folder.mkdir(parents=True)
    rows = [{"text_list": [f"Page {number} has a sentence."], "image_info": []} for number in range(1, 31)]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world.client.register_dataset("pages", str(folder))["name"]


def test_documents_have_their_images_in_place(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?dataset=sample")
    shown = page.locator("#documents")
    expect(shown.locator("article")).to_have_count(24)
    first = shown.locator("article").first
    expect(first.get_by_role("heading")).to_have_text("air transportation")
    expect(first.locator("img").first).to_have_js_property("complete", True)
    assert first.locator("img").first.evaluate("image => image.naturalWidth") > 0
    assert page.evaluate(CONTROLS) <= 5
    shown.get_by_role("link", name="Next").first.click()
    expect(shown).to_contain_text("25–48 of 531")
    expect(page).to_have_url(re.compile(r"\?dataset=sample&at=25$"))
    page.go_back()
    expect(shown).to_contain_text("1–24 of 531")
    shown.get_by_role("link", name="captioned images").click()
    expect(shown).to_contain_text("of 5,397")
    shown.get_by_role("link", name="test_vendor").click()
    expect(shown).to_contain_text("of 590")


@pytest.mark.extended
def test_words_of_a_corpus_stay_words(visitor: Any, page_url: str, odd: str) -> None:
    page = visitor.open(f"{page_url}/?tab=data")
    shown = page.locator("#documents")
    shown.locator("article").first.wait_for()
    page.get_by_placeholder("Find …").fill("Helicopter airplane")
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("with “Helicopter airplane” among 1–")
    expect(page).to_have_url(re.compile("q=Helicopter"))
    page.get_by_label("Dataset", exact=True).click()
    page.get_by_role("option", name=odd, exact=True).click()
    expect(shown).to_contain_text("1–2 of 2")
    expect(page.get_by_placeholder("Find …")).to_have_value("")
    expect(shown.locator("article h3").first).to_have_text(HOSTILE)
    assert page.title() != "taken"
    expect(page.get_by_role("img", name="absent.png")).not_to_have_js_property("naturalWidth", 0)  # a sign in its place
    expect(shown.locator("article").nth(1)).to_contain_text("It is empty.")


@pytest.mark.extended
def test_documents_are_tagged_and_left_out_of_a_conversion(visitor: Any, page_url: str, world: Any, pages: str) -> None:
    page = visitor.open(f"{page_url}/?dataset={pages}&at=25")
    shown, actions = page.locator("#documents article"), page.locator("#data-actions")
    expect(shown).to_have_count(6)
    shown.nth(1).get_by_text("Tag", exact=True).click()
    shown.nth(1).get_by_role("textbox", name="Tag").fill("odd")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 item gained the tag odd.")).to_be_visible()
    expect(shown.nth(1).locator(".lcl-doc__tag")).to_have_text("odd×")
    actions.get_by_text("Actions").click()
    page.get_by_placeholder("Tag these 6 …").fill("dull")
    page.keyboard.press("Enter")
    expect(page.get_by_text("6 items gained the tag dull.")).to_be_visible()
    assert world.client.dataset_tags(pages) == {"odd": 1, "dull": 6}
    page.get_by_role("link", name="dull 6").click()
    expect(page.locator("#documents")).to_contain_text("6 with the tag dull among 1–30 of 30")
    assert serious(page, "light") == []
    page.get_by_role("button", name="Remove the tag dull of Page 30 has a sentence").click()
    expect(shown).to_have_count(5)
    actions.get_by_text("Actions").click()
    page.get_by_role("link", name="Convert all but “dull”").click()
    expect(page.get_by_label("Without tags")).to_have_value("dull")


@pytest.mark.extended
def test_a_dataset_is_deleted_after_a_question(visitor: Any, page_url: str, world: Any) -> None:
    folder = world.home / "incoming" / "gone"
    folder.mkdir(parents=True)
    (folder / "interleaved.jsonl").write_text('{"text_list": ["One."], "image_info": []}\n')
    world.client.register_dataset("gone", str(folder))
    page = visitor.open(f"{page_url}/?dataset=gone")
    page.locator("#data-actions").get_by_text("Actions").click()
    page.get_by_text("Delete …").click()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#documents")).to_contain_text("There is no dataset gone")


@pytest.mark.extended
def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(f"{away_url}/?tab=data")
    expect(page.locator("#documents").get_by_role("alert")).to_contain_text("no answer from")
