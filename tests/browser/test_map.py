"""The map of a collection: points on a canvas that are looked at with pointer, wheel, lasso and keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from safetensors.numpy import load, save

from api.client import ApiError
from tests.browser.axe import serious

pytestmark = pytest.mark.browser
MANY = 10_000


@pytest.fixture(scope="module")
def points(world: Any) -> list[dict[str, Any]]:
    tensors = load(world.client.collection_map_file("drawings"))
    places = {f"img_{key:016x}": place for key, place in zip(tensors["ids"].tolist(), tensors["points"], strict=True)}
    items = world.client.items("drawings", limit=200)
    return [{**item, "x": float(places[item["id"]][0]), "y": float(places[item["id"]][1])} for item in items]


@pytest.fixture
def open_map(visitor: Any, page_url: str, world: Any) -> Callable[..., Any]:
    collection = world.client.collection("drawings")["id"]

    def go(at: str = "", **options: Any) -> Any:
        page = visitor.open(f"{page_url}/?tab=map&collection={collection}{at}", **options)
        facts = page.locator(f"#map [data-collection='{collection}'] .lcl-map__facts")
        expect(facts).to_contain_text("40 of 40 images")
        return page

    return go


def alone(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The point that is farthest from its nearest other."""
    places = np.array([[point["x"], point["y"]] for point in points])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return points[int(apart.min(axis=1).argmax())]


def centred(point: dict[str, Any], zoom: int = 4) -> str:
    """The address of the map with this point in the middle."""
    return f"&at={point['x']},{point['y']},{zoom}"


def parameters(page: Any) -> dict[str, str]:
    found: dict[str, str] = page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")
    return found


def count_frames(page: Any) -> None:
    page.evaluate(
        "window.drawn = 0;"
        "document.querySelector('#map canvas').addEventListener('lcl-drawn', () => { window.drawn++; })"
    )


@pytest.mark.extended
def test_the_map_opens_on_neighbours_and_says_what_is_kept(open_map: Callable[..., Any]) -> None:
    page = open_map()
    facts = page.locator("#map .lcl-map__facts")
    kept = r" · \d+ % of neighbours kept"
    expect(facts).to_have_text(
        re.compile("^40 of 40 images · t-SNE: what is near is alike, what is far says nothing" + kept)
    )
    page.get_by_text("More ▾").click()
    page.get_by_role("link", name="principal axes").click()
    expect(facts).to_have_text(re.compile(r"^40 of 40 images · principal axes, \d+ % of the variance" + kept + "$"))
    expect(page).to_have_url(re.compile("arrange=pca"))
    page.go_back()
    expect(facts).to_contain_text("t-SNE")
    page.locator("#map .lcl-map__collection").select_option("plain-drawings · 40 images")
    expect(facts).to_contain_text("principal axes")
    expect(facts).to_contain_text("left no neighbours: index it again")


@pytest.mark.extended
def test_few_images_in_view_are_shown_beside_a_legend_that_stays(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    page = open_map(centred(alone(points)))
    legend, canvas = page.locator("#map .lcl-legend"), page.locator("#map canvas")
    places = legend.bounding_box(), canvas.bounding_box()
    page.wait_for_function("performance.getEntriesByType('resource').some(({ name }) => name.includes('/media/'))")
    canvas.click()
    expect(page.locator("#map-detail h2")).to_be_visible()
    assert (legend.bounding_box(), canvas.bounding_box()) == places
    controls = (
        "#tab-map :is(button, a, input, select, summary, [tabindex='0']):not(#map-detail *, .lcl-legend *, canvas)"
    )
    assert page.locator(controls).filter(visible=True).count() == 7


@pytest.mark.extended
def test_the_image_under_the_pointer_is_named_and_a_click_opens_it(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    point = alone(points)
    page = open_map(centred(point))
    page.locator("#map canvas").hover()
    tip = page.locator("#map .lcl-tip")
    expect(tip.locator("span")).to_have_text(point["caption"])
    expect(tip.locator("img")).to_have_js_property("complete", True)
    page.locator("#map canvas").click()
    detail = page.locator("#map-detail")
    expect(detail.get_by_role("heading", level=2)).to_have_text(point["caption"])
    expect(page).to_have_url(re.compile(f"item={point['id']}"))
    detail.get_by_role("link", name="More like this").click()
    expect(page.get_by_role("tab", name="Search")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#search-results")).to_contain_text("for this image")
    page.go_back()
    expect(detail.get_by_role("heading", level=2)).to_have_text(point["caption"])


@pytest.mark.extended
def test_an_address_opens_the_same_part_and_the_same_image(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    point = alone(points)
    page = open_map(f"&colour=subgroup&item={point['id']}{centred(point)}")
    expect(page.locator("#map-detail").get_by_role("heading", level=2)).to_have_text(point["caption"])
    expect(page.locator("#map canvas")).to_have_attribute("aria-label", "Map of 40 images, coloured by subgroup")
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',6.4')")
    assert parameters(page)["item"] == point["id"]
    page.get_by_role("button", name="Show the whole map").click()
    page.wait_for_function("!new URLSearchParams(location.search).has('at')")


def test_a_lasso_selects_and_its_images_open(open_map: Callable[..., Any]) -> None:
    page = open_map()
    page.get_by_role("button", name="Select with a lasso").click()
    page.locator("#map canvas").hover()  # it has come to rest where the box is measured
    box = page.locator("#map canvas").bounding_box()
    right, bottom = box["width"] - 4, box["height"] - 4
    corners = [(right, 4), (right, bottom), (4, bottom)]
    page.mouse.move(box["x"] + 12, box["y"] + 12)  # the canvas has round corners
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    chosen = page.locator("#map .lcl-map__chosen")
    expect(chosen.get_by_role("status")).to_have_text("40 of 40 selected")
    expect(chosen.get_by_role("listitem")).to_have_count(24)
    chosen.get_by_role("button", name="Show 16 more").click()
    expect(chosen.get_by_role("listitem")).to_have_count(40)
    first = chosen.get_by_role("listitem").first.get_by_role("button")
    expect(first).not_to_have_attribute("aria-label", re.compile("img_"))
    name = first.get_attribute("aria-label").removeprefix("Look at ")
    first.click()
    expect(page.locator("#map-detail").get_by_role("heading", level=2)).to_have_text(name)
    chosen.get_by_role("button", name="Clear").click()
    expect(chosen).to_be_hidden()


@pytest.mark.extended
def test_selected_images_are_tagged_and_found_by_the_tag(visitor: Any, page_url: str, world: Any) -> None:
    collection = world.client.collection("plain-drawings")["id"]
    page = visitor.open(f"{page_url}/?tab=map&collection={collection}")
    expect(page.locator("#map .lcl-map__facts")).to_contain_text("40 of 40 images")
    page.locator("#map canvas").press("a")
    chosen = page.locator("#map .lcl-map__chosen")
    chosen.get_by_role("textbox", name="Tag").fill("kept; for now")
    chosen.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".lcl-notice")).to_contain_text("40 images gained the tag kept; for now.")
    expect(chosen.get_by_role("status"), "the selection stays").to_have_text("40 of 40 selected")
    try:
        page.goto(f"{page_url}/?collection={collection}&q=bird")
        results = page.locator("#search-results")
        results.locator(".lcl-card").first.click()
        detail = page.locator("#search-detail")
        expect(detail.get_by_role("link", name="Only images with tags kept; for now")).to_be_visible()
        detail.get_by_role("textbox", name="Tag").fill("kept; for now")
        detail.get_by_role("button", name="Remove", exact=True).click()
        expect(page.locator(".lcl-notice")).to_contain_text("1 image lost the tag")
        expect(detail.get_by_role("link", name="Only images with tags kept; for now")).to_have_count(0)
        where = {"tags": "kept; for now"}
        assert len(world.client.search("plain-drawings", text="bird", k=50, where=where)["hits"]) == 39
        results.get_by_role("textbox", name="Tag").fill("bird")
        results.get_by_role("textbox", name="Tag").press("Enter")
        expect(page.locator(".lcl-notice")).to_contain_text("24 images gained the tag bird.")
        assert serious(page, "light") == []
    finally:
        ids = [item["id"] for item in world.client.items("plain-drawings", limit=200)]
        world.client.change_labels("plain-drawings", ids, labels={"tags": None})


@pytest.mark.extended
def test_a_label_is_brought_out_and_limits_what_is_selected(open_map: Callable[..., Any]) -> None:
    page = open_map()
    entry = page.locator("#map [data-legend]").first
    count = entry.locator("em").inner_text()
    entry.focus()
    page.keyboard.press("Enter")
    expect(entry).to_have_attribute("aria-pressed", "true")
    page.locator("#map canvas").press("a")
    expect(page.locator("#map .lcl-map__chosen").get_by_role("status")).to_have_text(f"{count} of 40 selected")


@pytest.mark.extended
def test_keys_alone_walk_select_open_and_close(open_map: Callable[..., Any], points: list[dict[str, Any]]) -> None:
    page = open_map()
    canvas, said = page.locator("#map canvas"), page.locator("#map .lcl-map__said")
    captions = {point["caption"] for point in points}
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(said).not_to_be_empty()
    first = said.inner_text()
    page.keyboard.press("ArrowRight")
    expect(said).not_to_have_text(first)
    assert any(said.inner_text().startswith(caption) for caption in captions)
    page.keyboard.press("Space")
    page.keyboard.press("PageDown")
    page.keyboard.press("Space")
    expect(page.locator("#map .lcl-map__chosen").get_by_role("status")).to_have_text("2 of 40 selected")
    page.keyboard.press("Escape")
    expect(page.locator("#map .lcl-map__chosen")).to_be_hidden()
    page.keyboard.press("+")
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',1.6')")
    page.keyboard.press("0")
    page.wait_for_function("!new URLSearchParams(location.search).has('at')")
    page.keyboard.press("Enter")
    heading = page.locator("#map-detail").get_by_role("heading", level=2)
    expect(heading).to_be_focused()
    page.keyboard.press("Escape")
    expect(heading).to_have_count(0)
    expect(canvas).to_be_focused()


@pytest.mark.extended
def test_another_colour_leaves_the_part_of_the_map(open_map: Callable[..., Any]) -> None:
    page = open_map()
    canvas, legend = page.locator("#map canvas"), page.locator("#map .lcl-legend")
    canvas.focus()
    page.keyboard.press("+")
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',1.6')")
    before = legend.inner_text()
    page.locator("#map .lcl-map__colour").select_option(chosen := "subgroup")
    expect(canvas).to_have_attribute("aria-label", f"Map of 40 images, coloured by {chosen}")  # the new map listens
    expect(legend).not_to_have_text(before)
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',1.6')")
    canvas.focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("Space")
    expect(page.locator("#map .lcl-map__chosen").get_by_role("status")).to_have_text("1 of 40 selected")
    page.keyboard.press("+")
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',2.56')")


@pytest.mark.extended
def test_the_wheel_zooms_to_the_pointer_and_leaves_the_page_its_own(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    page = open_map()
    canvas = page.locator("#map canvas")
    canvas.hover()
    page.mouse.wheel(0, -200)
    page.wait_for_function("new URLSearchParams(location.search).has('at')")
    assert float(parameters(page)["at"].split(",")[2]) > 1
    page.mouse.wheel(0, 240)
    page.wait_for_function("!new URLSearchParams(location.search).has('at')")
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 240)
    page.wait_for_function("before => scrollY > before", arg=before)


@pytest.mark.extended
def test_a_caption_that_could_not_be_fetched_is_fetched_again(
    open_map: Callable[..., Any], points: list[dict[str, Any]], visitor: Any
) -> None:
    point = alone(points)
    page = open_map(centred(point))
    page.route("**/item/**", lambda route: route.fulfill(status=503, body="{}"))
    canvas, words = page.locator("#map canvas"), page.locator("#map .lcl-tip span")
    canvas.hover()
    expect(words).to_have_text(point["id"])
    page.unroute("**/item/**")
    page.mouse.move(0, 0)
    canvas.hover()
    expect(words).to_have_text(point["caption"])
    visitor.complaints[:] = [line for line in visitor.complaints if "503" not in line]  # of the browser's console


@pytest.mark.extended
def test_back_in_another_tab_leaves_the_part_of_the_map(open_map: Callable[..., Any]) -> None:
    page = open_map()
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',1.6')")
    for name in ("Encoders", "Studies"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_function(f"new URLSearchParams(location.search).get('tab') === '{name.lower()}'")
    page.go_back()
    expect(page.get_by_role("tab", name="Encoders")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Map").click()
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_function("new URLSearchParams(location.search).get('at')?.endsWith(',2.56')")


@pytest.mark.extended
def test_what_the_service_refuses_is_said(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.route("**/map/*", lambda route: route.fulfill(status=409, body="the collection is damaged"))
    page.get_by_role("tab", name="Map").click()
    problem = page.locator("#map").get_by_role("alert")
    expect(problem).to_contain_text("the collection is damaged")
    page.unroute("**/map/*")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#map .lcl-map__facts")).to_contain_text("40 of 40 images")
    visitor.complaints[:] = [line for line in visitor.complaints if "409" not in line]  # of the browser's console


def many_points() -> tuple[np.ndarray, bytes]:
    """Points of a file like the service's; the last lies by itself in the upper right corner."""
    places = np.random.default_rng(7).normal(scale=0.2, size=(MANY, 2)).clip(-0.8, 0.8).astype(np.float32)
    places[-1] = (1, 1)
    places[0] = (-1, -1)
    tensors = {
        "points": places,
        "ids": np.arange(MANY, dtype=np.uint64),
        "label.group": (np.arange(MANY) % 14 - 1).astype(np.int16),
    }
    metadata = {
        "method": "pca", "total": "123456", "variance": "0.0512", "neighbours": "10", "neighbours_kept": "0.0312",
        "labels": json.dumps({"group": [f"kind {i}" for i in range(13)]}),
    }  # fmt: skip
    return places, save(tensors, metadata)


@pytest.mark.extended
def test_ten_thousand_points_are_drawn_while_they_move_and_the_right_one_is_picked(visitor: Any, page_url: str) -> None:
    places, file = many_points()
    page = visitor.open(f"{page_url}/?at=1,1,8")  # the corner in the middle
    page.route("**/map/*", lambda route: route.fulfill(body=file, content_type="application/octet-stream"))
    page.route("**/item/**", lambda route: route.fulfill(json={"caption": "it"}))
    page.route("**/media/**", lambda route: route.fulfill(body=b"", content_type="image/png"))
    page.get_by_role("tab", name="Map").click()
    expect(page.locator("#map .lcl-map__facts")).to_have_text(
        "10,000 of 123,456 images · principal axes, 5.1 % of the variance · "
        "3.1 % of neighbours kept · "
        "its index run left no neighbours: index it again"
    )
    canvas = page.locator("#map canvas")
    page.get_by_role("button", name="Show the whole map").click()
    page.locator("#map").get_by_role("listitem").filter(has_text="others").wait_for()
    count_frames(page)
    box = canvas.bounding_box()
    page.keyboard.press("Tab")
    canvas.focus()
    page.keyboard.press("+")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(box["x"] + box["width"] / 2 - 4 * step, box["y"] + box["height"] / 2 + 3 * step)
        page.evaluate("new Promise(requestAnimationFrame)")
    page.mouse.up()
    assert page.evaluate("window.drawn") >= 15
    index = int(np.abs(places - places.mean(axis=0)).sum(axis=1)[:-1].argmax())  # the other corner
    page.evaluate("history.replaceState({}, '', '?tab=map&at=-1,-1,30')")
    page.evaluate("window.dispatchEvent(new CustomEvent('lcl-navigate', { detail: 'map' }))")
    with page.expect_request(re.compile(f"/item/.*/img_{index:016x}")):  # one for an image before may come late
        canvas.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(page.locator("#map .lcl-tip span")).to_have_text("it")
    visitor.complaints[:] = []


@pytest.mark.extended
def test_axe_finds_nothing_serious_with_a_selection_and_an_open_image(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    page = open_map(f"&item={points[0]['id']}")
    page.locator("#map canvas").press("a")
    page.locator("#map-detail h2").wait_for()
    page.wait_for_function("document.querySelectorAll('.lcl-map__chosen [aria-label*=img_]').length === 0")
    assert serious(page, "light") == []


@pytest.mark.extended
def test_on_a_phone_the_map_is_as_wide_as_the_screen_and_a_tap_opens_an_image(
    open_map: Callable[..., Any], points: list[dict[str, Any]]
) -> None:
    point = alone(points)
    page = open_map(centred(point), width=390, height=844)
    box = page.locator("#map canvas").bounding_box()
    assert box["width"] > 300
    page.locator("#map canvas").click()
    sheet = page.locator("#map-detail .lcl-detail")
    expect(sheet.get_by_role("heading", level=2)).to_have_text(point["caption"])
    place = sheet.bounding_box()
    assert place["x"] >= 0
    assert place["x"] + place["width"] <= 390
    sheet.get_by_role("button", name="Close").click()
    expect(sheet).to_have_count(0)


@pytest.mark.extended
def test_all_vectors_of_a_collection_are_downloaded(visitor: Any, page_url: str, world: Any) -> None:
    page = visitor.open(f"{page_url}/?tab=map")
    page.get_by_text("More ▾").click()
    with page.expect_download() as download:
        page.get_by_role("link", name=".json").click()
    rows = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    ids, vectors = world.client.vectors("drawings")
    assert [row["name"] for row in rows] == ids
    np.testing.assert_allclose([row["vector"] for row in rows], vectors)


@pytest.mark.extended
def test_an_opening_that_failed_is_tried_again(
    visitor: Any, page_url: str, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable() -> None:
        raise ApiError(0, "unreachable", "no answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.client, "collections", unreachable)
        page = visitor.open(f"{page_url}/?tab=map&collection=plain-drawings&arrange=pca")
        problem = page.locator("#map").get_by_role("alert")
        expect(problem).to_contain_text("The service cannot be reached")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#map .lcl-map__facts")).to_contain_text("principal axes")
