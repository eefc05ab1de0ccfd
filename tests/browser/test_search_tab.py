"""Search: by words, by image, and from one hit to the next."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.axe import serious

pytestmark = pytest.mark.browser


def results(page: Any) -> Any:
    return page.get_by_role("region", name="Search results")


def test_words_find_images(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_placeholder("Describe an image").fill("ant")
    page.keyboard.press("Enter")
    hits = results(page).get_by_role("listitem")
    expect(hits).to_have_count(24)
    expect(results(page)).to_contain_text("closest to “ant”")
    expect(results(page)).to_contain_text("ms in the service")
    first = hits.first.locator("img")
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("image => image.naturalWidth") > 0


@pytest.mark.extended
def test_an_example_searches_at_once(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="guitar").click()
    expect(results(page)).to_contain_text("“guitar”")
    expect(page.get_by_placeholder("Describe an image")).to_have_value("guitar")


def detail(page: Any) -> Any:
    return page.get_by_role("region", name="Chosen image")


@pytest.mark.extended
def test_a_hit_is_looked_at_and_leads_to_its_neighbours_by_keyboard(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="house").click()
    hit = results(page).get_by_role("button").nth(2)
    words = hit.locator(".lcl-card__words").inner_text()
    hit.focus()
    page.keyboard.press("Enter")
    heading = detail(page).get_by_role("heading", level=2)
    expect(heading).to_have_text(words)
    expect(heading).to_be_focused()
    expect(hit).to_have_attribute("aria-current", "true")
    assert detail(page).locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(detail(page).get_by_role("button", name="Look at it")).to_have_count(8)
    expect(detail(page).get_by_role("button", name="Find its images")).to_have_count(4)
    assert serious(page, "light") == []
    page.keyboard.press("Escape")
    expect(detail(page)).to_have_count(0)
    expect(hit).to_be_focused()
    page.keyboard.press("Enter")
    expect(heading).to_be_focused()
    page.keyboard.press("Tab")
    expect(detail(page).get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("closest to this image")
    expect(results(page).get_by_role("button").first).to_contain_text(words)  # an image is its own nearest
    expect(page.get_by_role("radio", name="Image → images")).to_be_checked()


@pytest.mark.extended
def test_a_card_that_is_pressed_while_another_is_opened_counts(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=dog")
    cards, held = results(page).locator(".lcl-card"), []
    expect(cards).to_have_count(24)
    page.route("**/run/predict*", lambda route: held.append(route))
    for place in (0, 1):
        with page.expect_request(lambda request: '"pick":"image:' in (request.post_data or "")):
            cards.nth(place).click()
    expect(cards.nth(1)).to_have_attribute("aria-current", "true")
    for route in reversed(held):
        route.continue_()
    page.unroute("**/run/predict*")
    words = cards.nth(1).locator(".lcl-card__words").inner_text()
    expect(detail(page).get_by_role("heading", level=2)).to_have_text(words)


@pytest.mark.extended
def test_a_label_of_an_image_narrows_the_search_and_the_picker_widens_it(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=house")
    expect(page.get_by_placeholder("Describe an image")).to_have_value("house")
    expect(results(page).get_by_role("listitem")).to_have_count(24)
    results(page).get_by_role("button").first.click()
    label = detail(page).get_by_role("button", name="Only images with subgroup")
    words = label.get_attribute("aria-label").removeprefix("Only images with subgroup ")
    label.click()
    chosen = page.locator("#search-where")
    expect(chosen).to_contain_text(f"subgroup: {words}")
    expect(results(page).get_by_role("listitem")).not_to_have_count(24)
    few = results(page).get_by_role("listitem").count()
    results(page).locator(".lcl-card").last.click()
    expect(detail(page)).to_contain_text(f"subgroup {words}")
    chosen.get_by_role("button", name="Clear").click()
    expect(results(page).get_by_role("listitem")).to_have_count(24)
    assert few < 24


@pytest.mark.extended
def test_words_of_captions_count_and_the_address_says_so(visitor: Any, page_url: str, world: Any) -> None:
    items = world.client.search("drawings", text="dog", k=40)["hits"]
    word = next(word for word in reversed([hit["caption"] for hit in items]) if word.isalpha())  # the encoder's worst
    page = visitor.open(f"{page_url}/?collection=drawings&q={word}")
    expect(page.get_by_label("Match captions too")).to_be_checked()
    expect(results(page).get_by_role("button").first).to_contain_text(word)
    expect(results(page)).to_contain_text(f"“{word}”, by captions too")
    page.get_by_label("Match captions too").uncheck()
    expect(results(page).get_by_role("button").first).not_to_contain_text(word)
    expect(page).to_have_url(re.compile("captions=0"))
    assert serious(page, "light") == []
    page.reload()
    expect(results(page).get_by_role("button").first).not_to_contain_text(word)
    expect(page.get_by_label("Match captions too")).not_to_be_checked()


@pytest.mark.extended
def test_a_condition_is_typed_into_the_filters(visitor: Any, page_url: str, world: Any) -> None:
    groups = [item["labels"]["subgroup"] for item in world.client.search("drawings", text="dog", k=40)["hits"]]
    page = visitor.open(f"{page_url}/?collection=drawings&q=dog&k=48")
    expect(results(page).get_by_role("listitem")).to_have_count(40)
    field = page.locator("#search-where input")
    field.fill(f"subgroup={groups[0]}")
    field.press("Enter")
    expect(results(page).get_by_role("listitem")).to_have_count(groups.count(groups[0]))
    expect(page).to_have_url(re.compile("where="))
    page.reload()
    expect(results(page).get_by_role("listitem")).to_have_count(groups.count(groups[0]))
    field.fill("something")
    field.press("Enter")
    expect(page.locator("#search-results")).to_contain_text("'something' is no filter; write label=value")


@pytest.mark.extended
def test_words_are_added_to_an_image_and_weighed(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=house")
    results(page).get_by_role("button").first.click()
    detail(page).get_by_role("button", name="Add words").click()
    expect(page.get_by_text("An image, and words about it")).to_be_visible()
    expect(page.get_by_role("radio", name="Text + image")).to_be_checked()
    expect(page.get_by_placeholder("Describe an image")).to_be_focused()
    assert serious(page, "light") == []
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("closest to your image and “red”")
    both = results(page).locator(".lcl-score > span").all_inner_texts()
    slider = page.get_by_role("slider", name="How much the words count")
    slider.focus()
    page.keyboard.press("Home")
    expect(results(page)).to_contain_text("your image away from “red”")
    assert results(page).locator(".lcl-score > span").all_inner_texts() != both


@pytest.mark.extended
def test_more_is_shown_below_what_is_there(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?collection=drawings&q=dog")
    first = results(page).get_by_role("button").first.inner_text()
    more = page.get_by_role("button", name="Show more")
    more.click()
    expect(results(page).get_by_role("listitem")).to_have_count(40)  # all that there are
    assert results(page).get_by_role("button").first.inner_text() == first
    expect(more).to_be_hidden()


@pytest.mark.extended
def test_an_address_leads_to_an_image_on_a_narrow_screen(visitor: Any, page_url: str, world: Any) -> None:
    item = world.client.search("drawings", text="dog", k=1)["hits"][0]
    page = visitor.open(f"{page_url}/?collection=drawings&item={item['id']}", width=390, height=844)
    expect(detail(page).get_by_role("heading", level=2)).to_have_text(item["caption"])
    box = detail(page).bounding_box()
    assert (box["x"], box["width"]) == (0, 390)
    assert box["y"] + box["height"] == pytest.approx(844, abs=1), "it lies at the bottom, over the rest"
    detail(page).get_by_role("button", name="Similar texts").click()
    expect(results(page)).to_contain_text("texts closest to this image")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(detail(page)).to_have_count(0)


@pytest.mark.extended
def test_an_uploaded_image_finds_texts_and_a_text_its_images(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(page_url)
    page.get_by_text("Image → texts").click()
    expect(page.get_by_text("Which image?")).to_be_visible()
    files: Any = {"name": "query.png", "mimeType": "image/png", "buffer": png}
    page.locator("input[type=file]").first.set_input_files(files)
    expect(results(page)).to_contain_text("texts closest to your image")
    text = results(page).get_by_role("button").first
    words = text.locator("span").first.inner_text()
    text.click()
    expect(results(page)).to_contain_text(f"images closest to “{words}”")
    expect(page.get_by_placeholder("Describe an image")).to_have_value(words)


@pytest.mark.extended
def test_fewer_results_can_be_asked_for(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("button", name="umbrella").click()
    expect(results(page).get_by_role("listitem")).to_have_count(24)
    page.get_by_label("Results", exact=True).click()
    page.get_by_role("option", name="12").click()
    expect(results(page).get_by_role("listitem")).to_have_count(12)


@pytest.mark.extended
def test_without_a_collection_the_way_to_one_is_shown(visitor: Any, empty_url: str) -> None:
    page = visitor.open(empty_url)
    expect(page.get_by_text("No collection yet")).to_be_visible()
    expect(page.get_by_text("Submit an index run")).to_be_visible()


@pytest.mark.extended
def test_a_service_that_is_away_is_said_in_words(visitor: Any, away_url: str) -> None:
    page = visitor.open(away_url)
    expect(page.get_by_text("Service unreachable")).to_be_visible()
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
    expect(results(page)).to_contain_text("closest to “house”")


@pytest.mark.extended
def test_another_mode_searches_with_the_image_that_is_there(visitor: Any, page_url: str, png: bytes) -> None:
    page = visitor.open(page_url)
    page.get_by_text("Image → images").click()
    files: Any = {"name": "query.png", "mimeType": "image/png", "buffer": png}
    page.locator("input[type=file]").first.set_input_files(files)
    expect(results(page)).to_contain_text("images closest to your image")
    page.get_by_text("Image → texts").click()
    expect(results(page)).to_contain_text("texts closest to your image")
    expect(page.get_by_text("Which image?")).to_have_count(0)
