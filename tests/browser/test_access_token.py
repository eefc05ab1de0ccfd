"""The page of one machine in a browser: opened with the printed address, without it, and by a link from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import TOKEN

pytestmark = pytest.mark.browser


def test_the_printed_address_opens_the_page_and_loses_its_token(visitor: Any, away_url: str) -> None:
    page = visitor.open(f"{away_url}/?token={TOKEN}&tab=runs", token=None)
    assert page.url == f"{away_url}/?tab=runs"
    expect(page.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")
    page.reload()
    expect(page.get_by_role("tab", name="Runs")).to_have_attribute("aria-selected", "true")


@pytest.mark.extended
def test_without_it_the_page_says_where_it_is_and_takes_the_token(visitor: Any, away_url: str) -> None:
    page = visitor.open(f"{away_url}/?tab=encoders", token=None)
    expect(page.get_by_text("print the address that opens the page")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("not-the-token-of-the-tests")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not the token of the service")
    visitor.complaints.clear()  # the browser notes the answers' 401
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Encoders")).to_have_attribute("aria-selected", "true")
    assert TOKEN not in page.url


@pytest.mark.extended
def test_a_link_from_another_site_opens_where_it_leads(visitor: Any, away_url: str) -> None:
    page = visitor.open(away_url)
    elsewhere = away_url.replace("127.0.0.1", "localhost")
    letter = f"<a href='{away_url}/?tab=encoders'>there</a>"
    page.route(f"{elsewhere}/letter", lambda route: route.fulfill(body=letter, content_type="text/html"))
    page.goto(f"{elsewhere}/letter")
    page.get_by_role("link", name="there").click()
    expect(page.get_by_role("tab", name="Encoders")).to_have_attribute("aria-selected", "true")
    visitor.complaints.clear()  # it left the origin, as it should


@pytest.mark.extended
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_it_fits_narrow_and_dark_screens(visitor: Any, away_url: str, width: int, scheme: str) -> None:
    page = visitor.open(away_url, width=width, height=844, scheme=scheme, token=None)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(12, 17, 24)") is (scheme == "dark")
