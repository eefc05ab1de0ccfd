"""The documentation site in a browser: its search finds pages, from the file system and from the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import served

pytestmark = [pytest.mark.browser, pytest.mark.extended]


def test_the_search_finds_a_page_from_the_file_system(docs_site: Path, chromium: Any) -> None:
    """Without a server: what a release's archive is read with."""
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto((docs_site / "index.html").as_uri())
    page.get_by_label("Search").first.fill("similarity_threshold")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Spec: pretrain").first.click()
    expect(page.get_by_role("heading", name="Spec: pretrain")).to_be_visible()
    assert page.url.startswith((docs_site / "reference" / "spec_pretrain.html").as_uri())
    page.close()
    assert problems == []


def test_the_service_serves_it_under_its_policy(docs_site: Path, chromium: Any, tmp_path: Path) -> None:
    from api.app import create_app
    from api.core.settings import ApiSettings

    problems: list[str] = []
    settings = ApiSettings(home=tmp_path, docs_dir=docs_site, warm_encoders=False)
    with served(create_app(settings)) as address:
        page = chromium.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
        page.goto(f"{address}/docs")
        page.get_by_role("link", name="guide").click()
        expect(page.get_by_role("heading", name="Documentation")).to_be_visible()
        page.get_by_label("Search").first.fill("lease token")
        page.keyboard.press("Enter")
        result = page.locator("#search-results li", has_text="States of a run")
        expect(result.first.locator(".context")).to_contain_text("lease")
        page.goto(f"{address}/docs/guide/concepts.html")
        drawn = (
            "[...document.images].every(image => image.complete && image.naturalWidth > 0) && document.images.length"
        )
        assert page.evaluate(drawn) >= 2
        page.close()
    assert problems == []


def test_the_page_links_the_guide_where_there_is_one(visitor: Any, empty_url: str, empty_world: Any) -> None:
    site = empty_world.home / "site"
    page = visitor.open(empty_url)
    expect(page.locator("#service")).to_contain_text("eady")
    expect(page.get_by_role("link", name="Guide")).to_have_count(0)
    site.mkdir()
    (site / "index.html").write_text("<title>Guide</title><h1>Documentation</h1>")
    try:
        page.reload()
        with page.context.expect_page() as opened:
            page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name="Guide").click()
        expect(opened.value.get_by_role("heading", name="Documentation")).to_be_visible()
        assert opened.value.url.startswith(empty_url)
    finally:
        (site / "index.html").unlink()
        site.rmdir()
