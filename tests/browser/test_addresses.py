"""The address bar follows what is shown: Back, Forward and a reload lead to the same view."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
# What a reader sees of the open tab, without times.
VIEW = """() => {
  const tab = document.querySelector('.lcl-tabs [role=tab][aria-selected=true]');
  const panel = tab && document.getElementById(tab.id.replace('-button', ''));
  if (!panel) return null;  // the page is still being drawn
  const parts = ['.lcl-results__head b', '.lcl-card__words', '.lcl-detail h2', '.lcl-run__head h2', '.lcl-empty strong',
    '#run-list button[aria-current]', '.lcl-encoders h3', '#documents h3'];
  const all = (selector) => [...panel.querySelectorAll(selector)];
  const seen = all(parts.join()).filter((each) => each.checkVisibility()).map((each) => each.textContent);
  const inputs = all('#search-box textarea, .lcl-toolbar :checked');
  return JSON.stringify([tab.textContent.trim(), seen, inputs.map((each) => each.value)]);
}"""


def results(page: Any) -> Any:
    return page.get_by_role("region", name="Search results")


def tab(name: str, ready: str) -> Callable[[Any], None]:
    def go(page: Any) -> None:
        page.get_by_role("tab", name=name).click()
        page.locator(ready).first.wait_for()

    return go


def words(page: Any) -> None:
    page.get_by_placeholder("Describe an image").fill("ant")
    page.keyboard.press("Enter")
    expect(results(page)).to_contain_text("for “ant”")


def image(page: Any) -> None:
    results(page).locator(".lcl-card").nth(1).click()
    page.get_by_role("region", name="Chosen image").wait_for()


def neighbours(page: Any) -> None:
    page.get_by_role("link", name="More like this").click()
    expect(results(page)).to_contain_text("for this image")


def run(page: Any) -> None:
    page.locator("#run-list").get_by_role("button", name="examined").click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("examined")


def encoder(page: Any) -> None:
    page.get_by_role("button", name="tiny", exact=True).click()
    page.get_by_role("heading", name="Lineage").wait_for()


def second_page(page: Any) -> None:
    page.locator("#documents").get_by_role("link", name="Next").first.click()
    expect(page.locator("#documents")).to_contain_text("25–48")


STEPS = [
    words, image, neighbours, tab("Runs", "#run-list tbody"), run, tab("Encoders", "#encoders li"), encoder,
    tab("Data", "#documents article"), second_page,
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "reloaded"),
    [
        pytest.param([words, image, STEPS[3], run], (4, 2), id="search-and-runs"),
        pytest.param(STEPS, (9, 7, 5, 3, 2, 1), id="every-tab", marks=pytest.mark.extended),
    ],
)
def test_back_forward_and_reload_keep_the_view(visitor: Any, page_url: str, steps: Any, reloaded: Any) -> None:
    page = visitor.open(page_url)
    expect(results(page)).to_contain_text("Try a red fish")
    views, addresses, titles = [page.evaluate(VIEW)], [page.url], [page.title()]
    for step in steps:
        step(page)
        page.wait_for_function("before => location.href !== before", arg=addresses[-1])
        settled(page)
        views.append(page.evaluate(VIEW))
        addresses.append(page.url)
        titles.append(page.title())
    assert len(set(addresses)) == len(addresses) == len(steps) + 1
    assert titles[0] == "Search – LCL"
    assert titles[1] == "ant – Search – LCL"
    assert titles[steps.index(run) + 1] == "examined – Runs – LCL"
    for move, places in (("go_back", range(len(steps) - 1, -1, -1)), ("go_forward", range(1, len(steps) + 1))):
        for place in places:
            getattr(page, move)()
            shows(page, views[place])
            expect(page).to_have_title(titles[place])
            assert page.url == addresses[place]
    for place in reloaded:
        fresh = visitor.open(addresses[place])
        shows(fresh, views[place])
        expect(fresh).to_have_title(titles[place])
        assert fresh.url == addresses[place]
        fresh.context.close()


def settled(page: Any) -> None:
    """Wait until the view has been the same for three polls."""
    page.evaluate("window.seen = []")
    same = f"""() => {{
      window.seen.push(({VIEW})());
      return window.seen.length > 3 && new Set(window.seen.slice(-3)).size === 1;
    }}"""
    page.wait_for_function(same, polling=200)


def shows(page: Any, view: str) -> None:
    from playwright.sync_api import TimeoutError

    try:
        page.wait_for_function(f"view => ({VIEW})() === view", arg=view)
    except TimeoutError:
        assert page.evaluate(VIEW) == view


@pytest.mark.extended
def test_options_replace_the_entry_of_the_history(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?q=house")
    expect(results(page).get_by_role("listitem")).to_have_count(24)
    entries = page.evaluate("history.length")
    page.locator("#search-options > .label-wrap").click()
    page.get_by_role("radio", name="Looks", exact=True).check()
    page.wait_for_url(re.compile("match=looks"))
    assert page.evaluate("history.length") == entries


@pytest.mark.extended
def test_a_half_filled_form_is_there_after_a_reload(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?tab=runs&new=pretrain")
    expect(page.get_by_role("region", name="Estimate")).to_be_visible()  # the form has its first values
    page.get_by_label("Name").fill("half filled")
    page.get_by_label("Steps").fill("77")
    page.wait_for_function("(sessionStorage.getItem('lcl-drafts') ?? '').includes('77')")
    page.reload()
    expect(page.get_by_label("Steps")).to_have_value("77")
    expect(page.get_by_label("Name")).to_have_value("half filled")


@pytest.mark.extended
def test_a_link_inside_the_page_loads_nothing_anew(visitor: Any, page_url: str, world: Any) -> None:
    run = next(run for run in world.client.runs()["items"] if run["name"] == "examined")
    page = visitor.open(f"{page_url}/?tab=data")
    page.locator("#documents article").first.wait_for()
    page.evaluate("window.sameDocument = true")
    link = "id => document.body.insertAdjacentHTML('beforeend', `<a id=probe href='?run=${id}'>run</a>`)"
    page.evaluate(link, run["id"])
    page.locator("#probe").click()
    expect(page.locator("#run-head").get_by_role("heading")).to_have_text("examined")
    assert page.evaluate("window.sameDocument")
    page.go_back()
    expect(page.get_by_role("tab", name="Data")).to_have_attribute("aria-selected", "true")


@pytest.mark.extended
def test_a_link_from_another_tab_opens_the_search_that_it_names(visitor: Any, page_url: str) -> None:
    """Beside what the Search tab shows: a click on the tab alone keeps that."""
    page = visitor.open(f"{page_url}/?collection=drawings&q=ant")
    expect(results(page)).to_contain_text("for “ant”")
    page.get_by_role("tab", name="Encoders").click()
    page.locator(".lcl-encoders h3").first.wait_for()
    page.evaluate(
        """() => {
        const link = document.createElement('a');
        Object.assign(link, { href: '?collection=drawings&q=house', textContent: 'search for a house' });
        document.querySelector('.lcl-encoders').append(link);
        }"""
    )
    page.get_by_text("search for a house").click()
    expect(results(page)).to_contain_text("for “house”")
