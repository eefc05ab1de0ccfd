"""Try: captions, and classes by their names: examples with one click, own images and folders, addresses."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.axe import serious
from tests.browser.conftest import CONTROLS

pytestmark = pytest.mark.browser


def image(colour: str, side: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


def predictions(page: Any) -> Any:
    return page.get_by_role("region", name="Predictions", exact=True)


def rows(page: Any) -> Any:
    return page.get_by_role("region", name="Predictions of each image").locator("tbody tr")


def classes(page: Any) -> Any:
    return page.get_by_label("Classes, one a line")


@pytest.fixture
def tab(visitor: Any, page_url: str) -> Any:
    page = visitor.open(f"{page_url}/?tab=try")
    page.locator(".lcl-samples a").first.wait_for()
    page.get_by_role("radio", name="Classify").locator("..").click()
    page.locator(".lcl-examples a").first.wait_for()
    return page


def saved(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("link", name="Download predictions.csv").click()
    return list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))


def test_a_sample_image_is_captioned(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Try").click()
    page.locator(".lcl-samples a").first.wait_for()
    controls = page.evaluate(CONTROLS, ["#tab-try", "#try-results, #try-examples"])
    assert len(controls) <= 6, controls
    page.get_by_role("link", name="Use the image").first.click()
    expect(page.locator("#try-results .lcl-caption")).not_to_be_empty()
    page.wait_for_url("**sample=**")


@pytest.mark.extended
def test_the_address_has_the_encoder(visitor: Any, page_url: str, world: Any) -> None:
    plain = world.client.encoder("plain")["id"]
    page = visitor.open(f"{page_url}/?tab=try&encoder={plain}")
    expect(page.locator("#tab-try").get_by_label("Encoder").first).to_have_value("plain")
    page = visitor.open(f"{page_url}/?tab=try&encoder=enc_gone")
    expect(page.locator("#tab-try").get_by_role("alert")).to_contain_text("There is no encoder 'enc_gone'.")


@pytest.mark.extended
def test_a_file_that_is_no_image_is_named(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=try")
    page.locator(".lcl-samples a").first.wait_for()
    files: Any = {"name": "mine.png", "mimeType": "image/png", "buffer": b"not an image"}
    page.locator("#tab-try input[type=file]").first.set_input_files(files)
    expect(page.locator("#try-results").get_by_role("alert")).to_contain_text("mine.png")


def test_an_example_is_classified_with_one_click_and_its_address_is_kept(tab: Any, visitor: Any) -> None:
    tab.locator(".lcl-examples a").first.click()
    expect(predictions(tab)).to_contain_text("chance")
    tab.get_by_text("Confusion: rows").click()
    expect(tab.get_by_role("region", name="Confusion matrix")).to_be_visible()
    expect(rows(tab).first.locator("img")).to_have_js_property("complete", True)
    assert serious(tab, "light") == []
    tab.wait_for_url("**sample=**")
    first, title, listed = tab.url, tab.title(), classes(tab).input_value()
    assert title.endswith("– Try – LCL")
    fresh = visitor.open(first)
    expect(predictions(fresh)).to_contain_text("chance")
    expect(classes(fresh)).to_have_value(listed)
    fresh.context.close()
    classes(tab).fill("an ant\na house")
    tab.get_by_role("button", name="Classify", exact=True).click()
    expect(predictions(tab)).to_contain_text("2 classes")
    expect(tab).not_to_have_url(first)
    tab.go_back()
    expect(classes(tab)).to_have_value(listed)
    expect(predictions(tab)).to_contain_text(f"{len(listed.splitlines())} classes")
    tab.go_forward()
    expect(classes(tab)).to_have_value("an ant\na house")
    tab.go_back()
    expect(classes(tab)).to_have_value(listed)


@pytest.mark.extended
def test_a_zip_with_a_broken_image_is_classified_with_keys_alone(tab: Any, tmp_path: Path, world: Any) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name, data in (("cat/1.png", image("navy")), ("dog/2.png", image("tan")), ("dog/3.png", b"nothing")):
            out.writestr(name, data)
    classes(tab).focus()
    tab.keyboard.type("cat")
    tab.keyboard.press("Enter")
    tab.keyboard.type("dog")
    tab.locator("#try-files input[type=file]").set_input_files(archive)
    expect(rows(tab)).to_have_count(2)
    expect(predictions(tab).get_by_role("alert")).to_contain_text("dog/3.png")
    expect(predictions(tab)).to_contain_text("of 2 right")
    table = saved(tab)
    expected = world.client.zero_shot("tiny", [(Path("cat/1.png"), image("navy"))], ["cat", "dog"])
    [row] = [row for row in table if row["image"] == "cat/1.png"]
    assert float(row["p: cat"]) == pytest.approx(expected.probabilities[0][0], abs=1e-5)
    assert {row["folder"] for row in table} == {"cat", "dog"}
    classes(tab).focus()
    tab.keyboard.press("Control+End")
    tab.keyboard.press("Enter")
    tab.keyboard.type("bird")
    tab.keyboard.press("Shift+Enter")
    expect(predictions(tab)).to_contain_text("3 classes")
    expect(predictions(tab)).to_contain_text("chance 33.3 %")


@pytest.mark.extended
def test_on_a_phone_in_the_dark_nothing_sticks_out(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=try&do=classify", width=390, height=844, scheme="dark")
    expect(classes(page)).to_be_visible()
    page.locator(".lcl-examples a").first.click()
    expect(predictions(page)).to_contain_text("chance")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(predictions(page).get_by_role("status").first).to_be_in_viewport()
    assert serious(page, "dark") == []


@pytest.mark.extended
def test_what_is_missing_is_said(tab: Any, visitor: Any, empty_url: str, away_url: str) -> None:
    tab.get_by_role("button", name="Classify", exact=True).click()
    classes(tab).fill("cat\ndog")
    tab.get_by_role("button", name="Classify", exact=True).click()
    expect(tab.get_by_text("Choose images first")).to_be_visible()
    expect(visitor.open(f"{empty_url}/?tab=try").get_by_text("No encoder yet")).to_be_visible()
    away = visitor.open(f"{away_url}/?tab=try").locator("#try-results")
    expect(away.get_by_text("The service cannot be reached")).to_be_visible()
