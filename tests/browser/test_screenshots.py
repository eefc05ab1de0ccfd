"""Images of every tab for the documentation, taken only when ``LCL_SCREENSHOTS=1``.

``LCL_SCREENSHOTS_URL`` names a page to take them of (one with a trained encoder, say), as its launcher printed it;
without it the small collection of these tests is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.extended,
    pytest.mark.browser,
    pytest.mark.skipif(os.environ.get("LCL_SCREENSHOTS") != "1", reason="set LCL_SCREENSHOTS=1 to take screenshots"),
]
FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"


def search(page: Any) -> None:
    page.get_by_placeholder("Describe an image").fill("a tree")
    page.keyboard.press("Enter")
    page.get_by_text("for “a tree”").wait_for()
    if page.viewport_size["width"] > 720:  # on a narrow screen the image would lie over the results
        page.locator("#search-results .lcl-card").first.click()
        page.get_by_role("region", name="Chosen image").wait_for()


def draw_map(page: Any) -> None:
    page.locator("#map .lcl-map__facts").get_by_text("t-SNE").wait_for()
    page.locator("#map .lcl-legend button").first.wait_for()


def classify(page: Any) -> None:
    page.get_by_role("radio", name="Classify").locator("..").click()
    page.locator(".lcl-examples a").first.click()
    page.get_by_role("region", name="Predictions of each image").wait_for()


def documents(page: Any) -> None:
    page.locator("#documents article").nth(5).wait_for()


def runs(page: Any) -> None:
    page.locator("#run-list tr").filter(has_text="loss").first.get_by_role("button").click()
    page.locator("#run-head h2").wait_for()


def estimate(page: Any) -> None:
    page.locator("#run-menus").get_by_text("New run").click()
    page.get_by_role("link", name="Pre-train").click()
    page.locator("#estimate summary").click()


def overlay(page: Any) -> None:
    runs(page)
    menu = page.locator("#run-head .lcl-menu--words")
    for group, places in (("Runs", (0, 1)), ("Metrics", (1, 2, 13))):
        for place in places:
            if menu.get_attribute("open") is None:
                menu.locator("summary").click()
            menu.get_by_role("group", name=group).get_by_role("button").nth(place).click()
            page.locator(".lcl-overlay").first.wait_for()
    page.locator("#run-head h2").click()  # the menu closes
    page.locator(".lcl-panels figure").nth(3).scroll_into_view_if_needed()


def studies(page: Any) -> None:
    page.locator("#run-list button").filter(has_text="cells").first.click()
    page.locator("#opened-run figure").first.wait_for()


def encoders(page: Any) -> None:
    page.locator("#encoders li").first.wait_for()


def service(page: Any) -> None:
    page.locator("#service-admins summary").first.wait_for()


IMAGES_ARE_THERE = """[...document.images]
  .filter(image => image.checkVisibility() && image.getBoundingClientRect().top < innerHeight)
  .every(image => image.complete && image.naturalWidth)"""
SCENES = {
    "search": search,
    "embed": draw_map,
    "try": classify,
    "documents": documents,
    "runs": runs,
    "runs-estimate": estimate,
    "runs-compared": overlay,
    "studies": studies,
    "encoders": encoders,
    "service": service,
}
SIZES: dict[str, dict[str, Any]] = {
    "": {},
    "-dark": {"scheme": "dark"},
    "-narrow": {"width": 390, "height": 844},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tab", SCENES)
def test_take_a_screenshot(visitor: Any, request: pytest.FixtureRequest, tab: str, size: str) -> None:
    ours = "study_url" if tab == "studies" else "page_url"
    url = os.environ.get("LCL_SCREENSHOTS_URL") or request.getfixturevalue(ours)
    root, _, token = url.partition("/?token=")
    page = visitor.open(
        f"{root.rstrip('/')}/?tab={tab.partition('-')[0]}",
        **SIZES[size],
        **({"token": token} if token else {}),
    )
    SCENES[tab](page)
    page.wait_for_function(IMAGES_ARE_THERE)
    page.mouse.move(0, 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=FOLDER / f"{tab}{size}.png")
