"""Signing in on a team's page: wrong keys, one's own runs, links that are kept, keys that are revoked, the way out."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def sign_in(page: Any, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").press("Enter")


@pytest.fixture
def key_of(world: Any) -> Any:
    """Makes a key for an owner."""
    return lambda owner, role="submitter": world.client.create_key(owner, role)["key"]


def test_everybody_sees_their_own_runs(visitor: Any, team_url: str, world: Any, key_of: Any) -> None:
    from api.client import Client

    pages = {}
    for owner in ("ada", "bob"):
        key = key_of(owner)
        with Client(world.client.base_url, key, attempts=1) as client:
            client.cancel(client.submit("pretrain", {"preset": "sample"}, name=f"of {owner}")["id"])
        pages[owner] = visitor.open(f"{team_url}/?tab=runs")
        sign_in(pages[owner], key)
    for owner, page in pages.items():
        runs = page.locator("#run-list tbody th")
        expect(runs).to_have_count(1)
        expect(runs).to_contain_text(f"of {owner}")
        expect(page.locator("#menu")).to_contain_text(f"{owner} submitter")


@pytest.mark.extended
def test_a_viewer_is_offered_what_the_role_permits(visitor: Any, team_url: str, world: Any, key_of: Any) -> None:
    for role, count in (("submitter", 1), ("viewer", 0)):
        page = visitor.open(f"{team_url}/?tab=runs&new=pretrain")
        sign_in(page, key_of("gwen", role))
        expect(page.locator("#menu")).to_contain_text(f"gwen {role}")
        expect(page.locator("#estimate")).to_be_visible()  # which viewers may ask for
        expect(page.locator("#submit-run:visible")).to_have_count(count)
        page.get_by_role("link", name="‹ Runs").click()
        expect(page.get_by_text("No runs yet")).to_be_visible()
        expect(page.locator("#run-menus .lcl-new:visible")).to_have_count(count)
        page.get_by_role("tab", name="Data").click()
        expect(page.locator("#documents article").first).to_be_visible()
        expect(page.locator("#data-actions:visible")).to_have_count(count)
        expect(page.locator("#documents article").first.locator("summary:visible")).to_have_count(count)
        page.get_by_role("tab", name="Encoders").click()
        encoder = page.locator("#encoders article").first
        expect(encoder.get_by_role("link", name="Search", exact=True)).to_be_visible()
        expect(encoder.get_by_role("button", name="Pin")).to_have_count(count)
        page.get_by_role("tab", name="Search").click()
        page.get_by_placeholder("Describe an image").fill("ant")
        page.get_by_placeholder("Describe an image").press("Enter")
        page.locator("#search-results .lcl-card").first.click()
        expect(page.locator("#search-detail img").first).to_be_visible()
        expect(page.locator("#search-detail .lcl-tag:visible")).to_have_count(count)


@pytest.mark.extended
def test_a_wrong_key_is_reported_and_may_be_corrected_with_keys_alone(visitor: Any, team_url: str, key_of: Any) -> None:
    page = visitor.open(f"{team_url}/?tab=encoders")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("lcl_0000.wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked or expired")
    expect(page.get_by_label("API key")).to_be_focused()
    visitor.complaints.clear()  # the browser notes the answer's 401
    page.keyboard.type(key_of("cleo"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Sign in")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Encoders")).to_have_attribute("aria-selected", "true")


@pytest.mark.extended
def test_a_link_from_another_site_opens_where_it_leads(visitor: Any, team_url: str, key_of: Any) -> None:
    page = visitor.open(team_url)
    sign_in(page, key_of("dora"))
    expect(page.locator("#menu")).to_contain_text("dora")
    elsewhere = team_url.replace("127.0.0.1", "localhost")
    letter = f"<a href='{team_url}/?tab=encoders'>there</a>"
    page.route(f"{elsewhere}/*", lambda route: route.fulfill(body=letter, content_type="text/html"))
    page.goto(f"{elsewhere}/letter")
    page.get_by_role("link", name="there").click()
    expect(page.get_by_role("tab", name="Encoders")).to_have_attribute("aria-selected", "true")
    visitor.complaints.clear()  # it left the origin, as it should


@pytest.mark.extended
def test_signing_out_asks_for_a_key_again(visitor: Any, team_url: str, key_of: Any) -> None:
    page = visitor.open(team_url)
    sign_in(page, key_of("emil"))
    expect(page.locator("#menu")).to_contain_text("emil")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    visitor.complaints.clear()  # the browser notes the 401 of events that were under way
    page.goto(f"{team_url}/?tab=runs")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


@pytest.mark.extended
def test_a_key_that_is_revoked_leads_back_to_the_door(visitor: Any, team_url: str, world: Any, key_of: Any) -> None:
    page = visitor.open(f"{team_url}/?tab=runs")
    key = key_of("finn")
    sign_in(page, key)
    expect(page.get_by_text("No runs yet")).to_be_visible()
    world.client.revoke_key(key.partition(".")[0])
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.url == f"{team_url}/?tab=runs"
    visitor.complaints.clear()  # the browser notes the 401 that led here


@pytest.mark.extended
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_the_door_fits_narrow_and_dark_screens(visitor: Any, team_url: str, width: int, scheme: str) -> None:
    page = visitor.open(team_url, width=width, height=844, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(12, 17, 24)") is (scheme == "dark")


@pytest.mark.extended
def test_the_header_holds_the_visitor_on_a_narrow_screen(visitor: Any, team_url: str, key_of: Any) -> None:
    page = visitor.open(team_url, width=390, height=844)
    sign_in(page, key_of("gwendolyn-with-a-very-long-name-indeed"))
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_role("button", name="Sign out").bounding_box()["x"] < 390 - 60
