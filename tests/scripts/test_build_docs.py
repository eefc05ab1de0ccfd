"""The documentation site: it builds without a warning and needs no network."""

import re

import pytest

from lcl_core.common.errors import UserError
from scripts import build_docs

pytestmark = pytest.mark.extended

ROOT = build_docs.ROOT


def html_pages(docs_site):
    for page in sorted(docs_site.rglob("*.html")):
        yield page, page.read_text(encoding="utf-8")


def test_every_page_of_the_documentation_is_in_the_navigation(docs_site):
    index = (docs_site / "index.html").read_text(encoding="utf-8")
    listed = set(re.findall(r'class="reference internal" href="([^"#]+)\.html"', index))
    sources = {str(build_docs.staged_name(name)).removesuffix(".md") for name in build_docs.page_sources()}
    assert sources - {"index"} <= listed
    assert {page for pages in build_docs.NAVIGATION.values() for page in pages} == sources - {"index"}
    assert {f"reference/{name}" for name in ("spec_pretrain", "settings", "commands")} <= listed


def test_nothing_is_loaded_from_elsewhere(docs_site):
    for page, text in html_pages(docs_site):
        loaded = re.findall(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
        assert not re.search(r"<script>|<script [^>]*>[^<]", text), f"{page}: an inline script"
    for style in docs_site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_local_links_and_images_exist(docs_site):
    for page, text in html_pages(docs_site):
        for address in re.findall(r'(?:src|href)="([^"#?]+)[^"]*"', text):
            if not re.match(r"[a-z]+:", address):
                assert (page.parent / address).resolve().exists(), f"{page}: {address}"


def test_every_diagram_is_drawn():
    named = {build_docs.diagram_file(text) for _, text in build_docs.diagrams()}
    there = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs" / build_docs.DIAGRAMS).iterdir()}
    assert named == there, "a diagram has changed: python -m scripts.draw_diagrams draws it"
    assert len(named) >= 4
    for name in named:
        drawn = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert drawn.startswith("<svg")
        assert not re.search(r"<script|foreignObject|https?://(?!www\.w3\.org)", drawn), name


def test_a_broken_link_ends_the_build(tmp_path, monkeypatch):
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
def test_links_are_moved_to_where_pages_are_staged(source, text, staged):
    assert build_docs.staged_text(source, f"# T\n{text}\n") == f"# T\n{staged}\n"
