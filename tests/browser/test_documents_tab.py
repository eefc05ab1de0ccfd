"""Documents: leafed through with their images in place, filtered, and sent to be validated."""

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


def opened(visitor: Any, url: str, **size: Any) -> Any:
    page = visitor.open(f"{url}/?tab=documents", **size)
    page.locator("#documents article").first.wait_for()
    return page


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_documents_have_their_images_in_place(visitor: Any, page_url: str) -> None:
    page = opened(visitor, page_url)
    expect(page.locator("#documents article")).to_have_count(6)
    expect(page.locator("#documents-place")).to_contain_text("Documents 1–6 of 531")
    first = page.locator("#documents article").first
    expect(first.get_by_role("heading")).to_have_text("air transportation (EmojiOne)")
    expect(first.locator("figure img").first).to_have_js_property("complete", True)
    assert first.locator("figure img").first.evaluate("image => image.naturalWidth") > 0
    expect(first.locator("figcaption")).to_have_count(0)  # its images are known to belong there: similarity 1


@pytest.mark.extended
def test_pages_are_turned_to_and_fro(visitor: Any, page_url: str) -> None:
    page = opened(visitor, page_url)
    before = page.locator("#documents article h3").first.inner_text()
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#documents-place")).to_contain_text("Documents 7–12 of 531")
    page.get_by_role("button", name="Previous").click()
    expect(page.locator("#documents-place")).to_contain_text("Documents 1–6 of 531")
    expect(page.locator("#documents article h3").first).to_have_text(before)


@pytest.mark.extended
def test_documents_are_found_by_words_and_by_number(visitor: Any, page_url: str) -> None:
    page = opened(visitor, page_url)
    page.get_by_placeholder("Find those with these words").fill("Helicopter airplane")
    page.keyboard.press("Enter")
    place = page.locator("#documents-place")
    expect(place).to_contain_text("with “Helicopter airplane” among 1–")
    for document in page.locator("#documents article").all():
        assert {"helicopter", "airplane"} <= set(
            document.inner_text().lower().replace(":", " ").replace(",", " ").split()
        )
    expect(page).to_have_url(re.compile("q=Helicopter"))
    page.get_by_placeholder("Find those with these words").fill("")
    page.keyboard.press("Enter")
    expect(place).to_contain_text("Documents 1–6 of 531")
    page.get_by_placeholder("Go to No.").fill("500")
    page.keyboard.press("Enter")
    expect(place).to_contain_text("Documents 500–505 of 531")


@pytest.mark.extended
def test_captioned_images_are_filtered_by_split(visitor: Any, page_url: str) -> None:
    page = opened(visitor, page_url)
    page.get_by_text("Captioned images", exact=True).click()
    expect(page.locator("#documents-place")).to_contain_text("of 5,397")
    choose(page, "Split", "test_vendor")
    expect(page.locator("#documents-place")).not_to_contain_text("of 5,397")
    expect(page.locator("#documents article footer").first).to_contain_text("test_vendor")


@pytest.mark.extended
def test_words_of_a_corpus_stay_words(visitor: Any, page_url: str, odd: str) -> None:
    page = opened(visitor, page_url)
    choose(page, "Dataset", odd)
    expect(page.locator("#documents-place")).to_contain_text("Documents 1–2 of 2")
    expect(page.locator("#documents article p").first).to_have_text(HOSTILE)
    expect(page.locator("#documents article h3").first).to_have_text(HOSTILE)
    assert page.title() != "taken"
    missing = page.get_by_role("img", name="absent.png")
    expect(missing).not_to_have_js_property("naturalWidth", 0)  # a sign stands in its place
    expect(page.locator("#documents article").nth(1)).to_contain_text("It is empty.")
    page.get_by_text("Captioned images", exact=True).click()
    expect(page.locator("#documents")).to_contain_text("No captioned images")


@pytest.mark.extended
def test_what_is_typed_while_a_dataset_is_opened_stays(visitor: Any, page_url: str, odd: str) -> None:
    page = opened(visitor, page_url)
    words, held = page.get_by_placeholder("Find those with these words"), []
    words.fill("left over")
    page.route("**/run/predict*", lambda route: held.append(route))
    with page.expect_request(lambda request: f'"{odd}"' in (request.post_data or "")):
        choose(page, "Dataset", odd)
    expect(words).to_have_value("")  # those of the dataset before
    words.fill("Second")
    for route in held:
        route.continue_()
    page.unroute("**/run/predict*")
    expect(page.locator("#documents-place")).to_contain_text("Documents 1–2 of 2")
    expect(words).to_have_value("Second")


@pytest.fixture(scope="module")
def pages(world: Any) -> str:
    """A dataset of eight documents of a sentence each."""
    folder = world.home / "incoming" / "pages"
    folder.mkdir(parents=True)
    rows = [{"text_list": [f"Page {number} has a sentence."], "image_info": []} for number in range(1, 9)]
    (folder / "interleaved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world.client.register_dataset("pages", str(folder))["name"]


@pytest.mark.extended
def test_documents_are_tagged_filtered_and_left_out_of_a_conversion(
    visitor: Any, page_url: str, world: Any, pages: str
) -> None:
    page = visitor.open(f"{page_url}/?dataset={pages}")
    documents = page.locator("#documents article")
    expect(documents).to_have_count(6)
    second = documents.nth(1)
    second.get_by_text("Tag", exact=True).click()
    second.get_by_role("textbox", name="Tag").fill("dull")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 document gained the tag dull.")).to_be_visible()
    expect(second.locator(".lcl-doc__tag")).to_have_text("dull×")
    page.get_by_role("button", name="Next").click()
    expect(documents).to_have_count(2)
    page.get_by_placeholder("Tag these 2 …").fill("dull")
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 documents gained the tag dull.")).to_be_visible()
    assert world.client.dataset_tags(pages) == {"dull": 3}
    page.get_by_role("combobox", name="Tag").click()
    page.get_by_role("option", name="dull (3)").click()
    expect(page.locator("#documents-place")).to_contain_text("3 with the tag dull among 1–8 of 8")
    expect(documents).to_have_count(3)
    assert serious(page, "light") == []
    page.wait_for_url("**tag=dull**")
    page.reload()
    expect(documents).to_have_count(3)
    page.get_by_role("button", name="Remove the tag dull of No. 8").click()
    expect(documents).to_have_count(2)
    page.get_by_role("link", name="Convert all others").click()
    expect(page.get_by_label("Without tags")).to_have_value("dull")
    expect(page.get_by_label("Dataset to make")).to_have_value("pages-chosen")
    page.locator("#submit-convert").click()
    expect(page.locator("#verdict-convert")).to_contain_text("Submitted as run_")
    run = world.client.runs(kind="convert")["items"][0]
    assert (run["spec"]["dataset"], run["spec"]["without_tags"]) == (pages, ["dull"])
    world.client.cancel(run["id"])


@pytest.mark.extended
def test_a_dataset_is_sent_to_be_validated(visitor: Any, page_url: str, world: Any) -> None:
    page = opened(visitor, page_url)
    page.get_by_role("button", name="Validate").click()
    link = page.locator("#documents-place a")
    expect(link).to_be_visible()
    assert world.client.run(link.inner_text())["kind"] == "validate"


@pytest.mark.extended
def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(f"{away_url}/?tab=documents")
    expect(page.locator("#documents").get_by_role("alert")).to_contain_text("no answer from")
