"""Caption: a sample image or one's own, decoded in several ways while one looks; and where the encoder looks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_sample_image_is_captioned_in_three_ways(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Caption").click()
    page.get_by_role("button", name="Use the image").first.click()
    cards = page.get_by_role("article")
    expect(cards).to_have_count(3)
    for way in ("Greedy", "Beam search", "Nucleus sampling"):
        card = cards.filter(has=page.get_by_role("heading", name=way))
        expect(card.locator("blockquote")).not_to_be_empty()
        expect(card).to_contain_text("ms")


@pytest.mark.extended
def test_the_address_has_the_encoder(visitor: Any, page_url: str, world: Any) -> None:
    plain, tiny = (world.client.encoder(name)["id"] for name in ("plain", "tiny"))
    page = visitor.open(f"{page_url}/?tab=caption&on={plain}")
    encoder = page.locator("#tab-caption").get_by_label("Encoder").first
    expect(encoder).to_have_value("plain")
    encoder.click()
    page.get_by_role("option", name="tiny").click()
    page.wait_for_url(f"**on={tiny}")
    page.go_back()
    expect(encoder).to_have_value("plain")
    page.go_forward()
    expect(encoder).to_have_value("tiny")
    page.reload()
    expect(encoder).to_have_value("tiny")
    page = visitor.open(f"{page_url}/?tab=caption&on=enc_gone")
    expect(page.locator("#tab-caption").get_by_role("alert")).to_contain_text("There is no encoder 'enc_gone'.")


@pytest.mark.extended
def test_an_uploaded_image_is_captioned_in_the_ways_that_were_chosen(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(f"{page_url}/?tab=caption")
    page.get_by_label("Greedy").uncheck()
    page.get_by_label("Nucleus sampling").uncheck()
    files: Any = {"name": "mine.png", "mimeType": "image/png", "buffer": png}
    page.locator("#tab-caption input[type=file]").set_input_files(files)
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.get_by_role("article")).to_contain_text("Beam search")


@pytest.mark.extended
def test_a_file_that_is_no_image_is_refused_in_words(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=caption")
    files: Any = {"name": "mine.png", "mimeType": "image/png", "buffer": b"not an image"}
    page.locator("#tab-caption input[type=file]").set_input_files(files)
    expect(page.get_by_text("not an image that can be read")).to_be_visible()


@pytest.mark.extended
def test_without_an_encoder_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(f"{empty_url}/?tab=caption")
    expect(page.locator("#captions").get_by_text("No encoder yet")).to_be_visible()


@pytest.mark.extended
def test_words_appear_while_they_are_written(
    visitor: Any, page_url: str, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lcl_core.model.generation import IncrementalDetokenizer

    on, steps = threading.Event(), iter(("half a", " caption", ""))

    def add(self: IncrementalDetokenizer, token: int) -> str:
        piece = next(steps, "")
        self.ended = not piece
        assert piece != " caption" or on.wait(60)
        return piece

    monkeypatch.setattr(IncrementalDetokenizer, "add", add)
    monkeypatch.setattr(IncrementalDetokenizer, "flush", lambda self: "")
    monkeypatch.setattr(IncrementalDetokenizer, "text", "half a caption")
    page = visitor.open(f"{page_url}/?tab=caption")
    page.get_by_label("Beam search").uncheck()
    page.get_by_label("Nucleus sampling").uncheck()
    page.get_by_label("Text before the image").fill("once upon a time")
    page.get_by_role("button", name="Use the image").first.click()
    card = page.get_by_role("article")
    expect(card.locator("blockquote")).to_have_text("half a")
    expect(card).to_contain_text("writing …")
    expect(page.locator(".lcl-captions")).to_have_attribute("aria-busy", "true")
    page.get_by_role("tab", name="Embed").click()  # the page stays usable
    expect(page.locator("#map canvas")).to_be_visible()
    page.get_by_role("tab", name="Caption").click()
    on.set()
    expect(card.locator("blockquote")).to_have_text("half a caption")
    expect(page.locator(".lcl-captions")).to_have_attribute("aria-busy", "false")


@pytest.mark.extended
def test_where_the_encoder_looks_is_drawn_over_the_image(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=caption", width=390, height=844)
    page.get_by_role("button", name="Use the image").first.click()
    expect(page.get_by_role("article")).to_have_count(3)
    page.get_by_label("Show where the encoder looks").check()
    expect(page.get_by_role("img", name="Mean of the heads: most weight")).to_be_visible()
    expect(page.get_by_role("list", name="Each head").get_by_role("img")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = Axe().run(page).response["violations"]
    assert [finding["id"] for finding in found if finding["impact"] in ("serious", "critical")] == []
    page.get_by_label("Show where the encoder looks").uncheck()
    expect(page.get_by_role("img", name="Mean of the heads")).to_have_count(0)
