"""The documentation site at /docs/guide: files of its folder alone, under a policy; a way out where it is missing."""

import httpx
import pytest

from api.core.settings import ApiSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide")
    (folder / "secret.html").write_text("outside")
    site = folder / "site"
    (site / "reference").mkdir(parents=True)
    (site / "index.html").write_text("<h1>Guide</h1>")
    (site / "reference" / "settings.html").write_text("settings")
    (site / "searchindex.js").write_text("Search.setIndex({})")
    (site / "link.html").symlink_to(folder / "secret.html")
    return site


@pytest.fixture
def guide(serve, folder, tmp_path):
    settings = ApiSettings(home=tmp_path, docs_dir=folder, warm_encoders=False)
    with serve(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def test_pages_are_served_without_a_key_and_with_a_policy(guide):
    assert guide.get("/").headers["location"] == "/docs"
    moved = guide.get("/docs/guide")
    assert (moved.status_code, moved.headers["location"]) == (307, "/docs/guide/")
    assert 'href="/docs/guide/"' in guide.get("/docs").text
    page = guide.get("/docs/guide/")
    assert (page.status_code, page.text) == (200, "<h1>Guide</h1>")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert guide.get("/docs/guide/searchindex.js").headers["content-type"].startswith("text/javascript")
    assert guide.get("/docs/guide/reference/settings.html").text == "settings"


@pytest.mark.parametrize("path", ["missing.html", "link.html", "..%2fsecret.html", "%2fetc%2fpasswd", "a%5cb.html"])
def test_nothing_else_is_served(guide, path):
    answer = guide.get(f"/docs/guide/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_site_that_is_not_built_says_how_to_build_it(serve, tmp_path):
    settings = ApiSettings(home=tmp_path, docs_dir=tmp_path / "none", warm_encoders=False)
    with serve(settings) as url, httpx.Client(base_url=url, trust_env=False) as client:
        answer = client.get("/docs/guide")
        assert answer.status_code == 404
        assert "make docs" in answer.text
        assert "LCL_DOCS_DIR" in answer.text
        assert client.get("/docs/guide/").status_code == 404
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "/docs/guide" not in page.text
        assert client.get("/docs/docs.js").headers["content-type"].startswith("text/javascript")
