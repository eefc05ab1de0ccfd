"""What the page says while it waits: skeletons, a slow service, no answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.extended]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def api(world: Any) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A page of a second api, a process of its own that a signal can stop."""
    from api.client import Client
    from tests.browser.conftest import one_machine, served

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"LCL_HOME": str(world.home), "LCL_API_HOST": "127.0.0.1", "LCL_API_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "api"], cwd=ROOT, env={**os.environ, **own})
    url = f"http://127.0.0.1:{port}"
    try:
        transport = httpx.HTTPTransport(retries=60)  # with growing pauses, until it listens
        with httpx.Client(transport=transport, trust_env=False, timeout=120) as http:
            assert http.get(f"{url}/healthz").status_code == 200
        with (
            Client(url, (world.home / "key").read_text().strip(), attempts=1) as client,
            served(one_machine(client)) as page_url,
        ):
            yield page_url, process
            process.send_signal(signal.SIGCONT)  # calls under way end before the page does
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


def test_a_stopped_service_is_said_at_each_moment(visitor: Any, api: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, process = api
    page = visitor.open(url)
    page.get_by_text("Try a red fish").wait_for()
    search = page.locator("#search-box .submit-button")
    words = page.get_by_placeholder("Describe an image")
    words.fill("ant")
    process.send_signal(signal.SIGSTOP)
    search.click()
    expect(page.locator(".lcl-skeletons")).to_be_visible()
    expect(page.locator("#search-status")).to_contain_text("Searching …")
    expect(page.get_by_text("Slow")).to_be_visible()
    expect(page.locator("#service")).to_be_hidden()
    words.fill("house")
    search.click()
    process.send_signal(signal.SIGCONT)
    results = page.get_by_role("region", name="Search results")
    expect(results).to_contain_text("for “house”")
    expect(page.locator(".lcl-skeletons")).to_be_hidden()
    expect(page.get_by_text("Slow")).to_be_hidden()
    expect(page.locator("#service")).to_be_visible()


@pytest.mark.parametrize("error", ["This is refused.", {"code": "too_many_requests", "message": "This is refused."}])
def test_a_search_that_is_refused_says_why_and_is_no_longer_under_way(visitor: Any, empty_url: str, error: Any) -> None:
    """By the page, or by the gateway, whose errors have the form of the api's."""
    page = visitor.open(empty_url)
    page.get_by_text("No collection yet").wait_for()
    page.route("**/run/predict**", lambda route: route.fulfill(status=429, json={"error": error}))
    page.get_by_placeholder("Describe an image").fill("ant")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="This is refused.")).to_be_visible()
    expect(page.locator("#tab-search")).to_have_attribute("data-search", "idle")  # without an end it would be late
    page.unroute("**/run/predict**")
    visitor.complaints.clear()  # the browser notes the answer's 429


def test_what_is_missing_is_said(visitor: Any, page_url: str) -> None:
    page = visitor.open(page_url)
    page.get_by_role("tab", name="Try").click()
    page.locator(".lcl-samples a").first.wait_for()
    page.get_by_role("button", name="Write captions").click()
    expect(page.get_by_text("Choose images first")).to_be_visible()


def test_nothing_is_printed_over_what_is_there(visitor: Any, page_url: str) -> None:
    page = visitor.open(f"{page_url}/?q=house")
    page.get_by_role("region", name="Search results").wait_for()
    tracker = "[data-testid=status-tracker]"
    shown = f"[...document.querySelectorAll('{tracker} *')].filter(each => each.checkVisibility() && each.textContent)"
    assert page.evaluate(f"{shown}.map(each => each.textContent)") == []
