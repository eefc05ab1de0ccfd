"""The documentation site: it builds without a warning, needs no network, and its search finds pages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from lcl_core.common.errors import UserError
from scripts import build_docs
from tests.browser.conftest import chromium, served  # noqa: F401

ROOT = build_docs.ROOT


@pytest.fixture(scope="session")  # of a module it would be built again for the tests with a browser
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it, strictly: a link that leads nowhere ends the build."""
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "scripts.build_docs", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == str(out / "index.html")
    return out


def html_pages(site: Path) -> Iterator[tuple[Path, str]]:
    for page in sorted(site.rglob("*.html")):
        yield page, page.read_text(encoding="utf-8")


def test_every_page_of_the_documentation_is_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    listed = set(re.findall(r'class="reference internal" href="([^"#]+)\.html"', index))
    sources = {str(build_docs.staged_name(name)).removesuffix(".md") for name in build_docs.page_sources()}
    assert sources - {"index"} <= listed
    assert {page for pages in build_docs.NAVIGATION.values() for page in pages} == sources - {"index"}
    assert {f"reference/{name}" for name in ("spec_pretrain", "settings", "api", "errors", "commands")} <= listed


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page, text in html_pages(site):
        loaded = re.findall(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
        assert not re.search(r"<script>|<script [^>]*>[^<]", text), f"{page}: an inline script"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_local_links_and_images_exist(site: Path) -> None:
    for page, text in html_pages(site):
        for address in re.findall(r'(?:src|href)="([^"#?]+)[^"]*"', text):
            if not re.match(r"[a-z]+:", address):
                assert (page.parent / address).resolve().exists(), f"{page}: {address}"


def test_every_diagram_is_drawn() -> None:
    named = {build_docs.diagram_file(text) for _, text in build_docs.diagrams()}
    there = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs" / build_docs.DIAGRAMS).iterdir()}
    assert named == there, "a diagram has changed: python -m scripts.draw_diagrams draws it"
    assert len(named) >= 4
    for name in named:
        drawn = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert drawn.startswith("<svg")
        assert not re.search(r"<script|foreignObject|https?://(?!www\.w3\.org)", drawn), name


def test_a_broken_link_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("# Start\n\n[a](#start) [b](missing.md)\n")
    (tmp_path / "docs" / "conf.py").write_bytes((ROOT / "docs" / "conf.py").read_bytes())
    (tmp_path / "docs" / "assets").mkdir()
    monkeypatch.setattr(build_docs, "reference_pages", dict)
    monkeypatch.setattr(build_docs, "NAVIGATION", {})
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("the last good one")
    with pytest.raises(UserError, match="documentation has errors"):
        build_docs.build(out, tmp_path)
    assert (out / "index.html").read_text() == "the last good one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["docs", "site"]


@pytest.mark.parametrize(
    ("source", "text", "staged"),
    [
        ("docs/a.md", "[x](../ARCHITECTURE.md#flows)", "[x](architecture.md#flows)"),
        ("ARCHITECTURE.md", "[x](docs/results/t.md) [y](lcl_core/jobs.py)", "[x](results/t.md) y"),
        ("docs/results/b/t.md", "[x](../../README.md) [y](https://a.test/b)", "[x](../../index.md) [y](https://a.test/b)"),
        ("docs/a.md", "![x](screenshots/s.png) [y](#here)", "![x](screenshots/s.png) [y](#here)"),
        ("docs/a.md", "```sh\n[x](../setup.py)\n```", "```sh\n[x](../setup.py)\n```"),
    ],
)  # fmt: skip
def test_links_are_moved_to_where_pages_are_staged(source: str, text: str, staged: str) -> None:
    assert build_docs.staged_text(source, f"# T\n{text}\n") == f"# T\n{staged}\n"


@pytest.mark.browser
def test_the_search_finds_a_page_from_the_file_system(site: Path, chromium: Any) -> None:  # noqa: F811
    """Without a server: what a release's archive is read with."""
    page = chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto((site / "index.html").as_uri())
    page.get_by_label("Search").first.fill("packing_lookahead")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Spec: pretrain").first.click()
    expect(page.get_by_role("heading", name="Spec: pretrain")).to_be_visible()
    assert page.url.startswith((site / "reference" / "spec_pretrain.html").as_uri())
    page.close()
    assert problems == []


@pytest.mark.browser
def test_the_service_serves_it_under_its_policy(site: Path, chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    from api.app import create_app
    from api.core.settings import ApiSettings

    problems: list[str] = []
    settings = ApiSettings(home=tmp_path, docs_dir=site, warm_encoders=False)
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
        result = page.locator("#search-results li", has_text="Glossary")
        expect(result.first.locator(".context")).to_contain_text("lease")
        page.goto(f"{address}/docs/guide/concepts.html")
        drawn = (
            "[...document.images].every(image => image.complete && image.naturalWidth > 0) && document.images.length"
        )
        assert page.evaluate(drawn) >= 2
        page.close()
    assert problems == []
