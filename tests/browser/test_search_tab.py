"""Search: by words, by image, and from one hit to the next."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious
from tests.browser.conftest import CONTROLS

pytestmark = pytest.mark.browser
# A file in the clipboard, or under the pointer.
GIVE = """([data, kind]) => {
  const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], 'query.png', {type: 'image/png'}));
  const event = kind === 'paste' ? new ClipboardEvent(kind, {clipboardData: files, bubbles: true, cancelable: true})
    : new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true});
  document.querySelector('#search-box textarea').dispatchEvent(event);
}"""


def results(page: Any) -> Any:
    return page.get_by_role("region", name="Search results")


def detail(page: Any) -> Any:
    return page.get_by_role("region", name="Chosen image")


def hits(page: Any) -> Any:
    return results(page).locator(".lcl-card")


def test_words_find_images_below_one_line_of_controls(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    expect(results(page)).to_contain_text("40 images. Try a red fish or a house.")
    controls = page.evaluate(CONTROLS, ["#tab-search", ".lcl-results, #search-detail"])
    assert len(controls) <= 6, controls
    page.get_by_placeholder("Describe an image").fill("an ant")
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("24 of 40 images for “an ant”, read as ant")
    expect(hits(page)).to_have_count(24)
    expect(hits(page).first).to_have_attribute("title", re.compile(r"Looks: \d+(st|nd|rd|th)\."))
    first = hits(page).first.locator("img")
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("image => image.naturalWidth") > 0
    expect(results(page)).not_to_contain_text(re.compile(r"\d\.\d"))
    page.get_by_role("button", name="Show more").click()
    expect(hits(page)).to_have_count(40)  # all that there are
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_a_shared_search_shows_its_first_hit_in_the_first_screen_of_a_phone(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=a+dog", width=390, height=844)
    hits(page).first.wait_for()
    assert hits(page).first.evaluate("hit => hit.getBoundingClientRect().y") <= 420
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.get_by_placeholder("Describe an image")
    expect(box).to_be_hidden()
    page.get_by_role("button", name="Change the search").click()
    expect(box).to_have_value("a dog")
    hits(page).first.click()
    lies = detail(page).evaluate("image => image.getBoundingClientRect().toJSON()")
    assert (lies["x"], lies["width"], lies["bottom"]) == (0, 390, pytest.approx(844, abs=1))


@pytest.mark.extended
def test_a_hit_is_looked_at_and_leads_to_its_neighbours_by_keyboard(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=house")
    hit = hits(page).nth(2)
    hit.focus()
    page.keyboard.press("Enter")
    heading = detail(page).get_by_role("heading", level=2)
    expect(heading).to_be_focused()
    expect(hit).to_have_attribute("aria-current", "true")
    expect(detail(page)).to_contain_text("Cosine")
    assert detail(page).locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(detail(page).locator(".lcl-samples a")).to_have_count(8)
    expect(detail(page).locator(".lcl-texts a")).to_have_count(4)
    assert serious(page, "light") == []
    page.keyboard.press("Escape")
    expect(detail(page)).to_have_count(0)
    expect(hit).to_be_focused()
    page.keyboard.press("Enter")
    words = heading.inner_text()
    detail(page).get_by_role("link", name="More like this").click()
    expect(results(page)).to_contain_text("for this image")
    expect(hits(page).first).to_contain_text(words)  # an image is its own nearest
    expect(page.locator("#search-box .thumbnail-item")).to_have_count(1)
    page.get_by_placeholder("Describe an image").fill("red")
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("for this image and “red”")
    assert serious(page, "light") == []


@pytest.mark.extended
def test_a_card_that_is_pressed_while_another_is_opened_counts(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=dog")
    expect(hits(page)).to_have_count(24)
    hits(page).nth(0).click()
    hits(page).nth(1).click()
    expect(hits(page).nth(1)).to_have_attribute("aria-current", "true")
    words = hits(page).nth(1).locator("img").get_attribute("src")
    expect(detail(page).locator("img").first).to_have_attribute("src", words)


@pytest.mark.extended
def test_a_label_of_an_image_narrows_the_search_and_the_filter_widens_it(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=house")
    expect(hits(page)).to_have_count(24)
    hits(page).first.click()
    label = detail(page).get_by_role("link", name="Only images with subgroup")
    words = label.get_attribute("aria-label").removeprefix("Only images with subgroup ")
    label.click()
    chosen = page.locator("#search-where")
    expect(chosen).to_contain_text(f"subgroup: {words}")
    expect(hits(page)).not_to_have_count(24)
    chosen.get_by_role("button", name="Clear").click()
    expect(hits(page)).to_have_count(24)


@pytest.mark.extended
def test_a_condition_is_typed_into_the_filter(visitor: Any, page_url: str, world: Any) -> None:
    groups = [item["labels"]["subgroup"] for item in world.client.search("drawings", text="dog", k=40)["hits"]]
    count = min(24, groups.count(groups[0]))
    page = visitor.open(f"{page_url}/?collection=drawings&q=dog")
    expect(hits(page)).to_have_count(24)
    field = page.locator("#search-where input")
    field.fill(f"subgroup={groups[0]}")
    field.press("Enter")
    expect(hits(page)).to_have_count(count)
    expect(page).to_have_url(re.compile("where="))
    page.reload()
    expect(hits(page)).to_have_count(count)
    field.fill("something")
    field.press("Enter")
    expect(page.locator("#search-results")).to_contain_text("'something' is no filter; write label=value")


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_is_pasted_or_dropped_and_finds_images_and_texts(
    visitor: Any, page_url: str, png: bytes, kind: str
) -> None:
    page = visitor.open(page_url)
    hits(page).first.wait_for()
    page.evaluate(GIVE, [base64.b64encode(png).decode(), kind])
    page.locator("#search-box .thumbnail-item img").wait_for()
    page.locator("#search-box .submit-button").click()
    expect(results(page)).to_contain_text("images for your image")
    page.locator("#search-options > .label-wrap").click()
    page.get_by_label("Show captions").check()
    expect(results(page)).to_contain_text("texts for your image")
    text = results(page).locator(".lcl-texts a").first
    words = text.inner_text()
    text.click()
    expect(results(page)).to_contain_text(f"for “{words}”")
    expect(page.get_by_placeholder("Describe an image")).to_have_value(words)


@pytest.mark.extended
def test_without_a_collection_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(empty_url)
    expect(page.get_by_text("No collection yet")).to_be_visible()
    expect(page.get_by_role("link", name="Add my data")).to_be_visible()


@pytest.mark.extended
def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(away_url)
    expect(page.get_by_role("alert").first).to_contain_text("no answer from")
    assert "Traceback" not in page.content()


@pytest.fixture
def gate(world: Any) -> Iterator[tuple[str, threading.Event]]:
    """A page of a second api on the same home, with no encoder in memory, and what lets it load one."""
    from api.app import create_app
    from api.client import Client
    from api.core.settings import ApiSettings
    from tests.browser.conftest import one_machine, served

    app = create_app(ApiSettings(home=world.home, warm_encoders=False, _env_file=None))  # type: ignore[call-arg]
    may_load = threading.Event()
    pool = app.state.context.inference()._pool
    load = pool._load

    def held(*arguments: Any) -> Any:
        assert may_load.wait(180)
        return load(*arguments)

    pool._load = held
    with (
        served(app) as api_url,
        Client(api_url, (world.home / "key").read_text().strip(), attempts=1) as client,
        served(one_machine(client)) as url,
    ):
        yield url, may_load
        may_load.set()


@pytest.mark.extended
def test_a_query_that_waits_for_the_encoder_says_so_and_the_last_one_wins(
    visitor: Any, gate: tuple[str, threading.Event]
) -> None:
    url, may_load = gate
    page = visitor.open(url)
    words = page.get_by_placeholder("Describe an image")
    status = page.locator("#search-status").get_by_role("status")
    expect(status).to_be_empty()
    words.fill("ant")
    page.keyboard.press("Enter")
    expect(status).to_have_text("Loading the encoder …")
    words.fill("house")
    page.keyboard.press("Enter")
    expect(status).to_have_text("Loading the encoder …")
    may_load.set()
    expect(status).to_be_empty()  # both answers have come
    expect(results(page)).to_contain_text("for “house”")
