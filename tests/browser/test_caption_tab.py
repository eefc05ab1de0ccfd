"""Caption: a sample image, or one's own."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_sample_image_is_captioned(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Caption").click()
    page.get_by_role("button", name="Use the image").first.click()
    expect(page.locator("#captions blockquote")).not_to_be_empty()


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
def test_a_file_that_is_no_image_is_refused_in_words(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=caption")
    files: Any = {"name": "mine.png", "mimeType": "image/png", "buffer": b"not an image"}
    page.locator("#tab-caption input[type=file]").set_input_files(files)
    expect(page.get_by_text("not an image that can be read")).to_be_visible()


@pytest.mark.extended
def test_without_an_encoder_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(f"{empty_url}/?tab=caption")
    expect(page.locator("#captions").get_by_text("No encoder yet")).to_be_visible()
