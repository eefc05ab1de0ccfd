"""The page of one machine opens with the address that was printed, and with nothing else."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.ui.hostile_events import StubService
from ui.app import build_app
from ui.settings import TOKEN_FILE, TOKEN_PATTERN, UiSettings, load_or_create_token, url_with_token

ADDRESS, SECRET = "http://127.0.0.1:7865", "the-token-of-the-tests"
Open = Callable[..., TestClient]


@pytest.fixture(scope="module")
def browser() -> Iterator[Open]:
    """A fresh browser of one page."""
    settings = UiSettings(token=SECRET, hosts="lcl.example", _env_file=None)  # type: ignore[call-arg]
    app = build_app(StubService(dict), settings)  # type: ignore[arg-type]
    with TestClient(app):
        yield lambda address=ADDRESS: TestClient(app, address, follow_redirects=False)


def test_without_the_token_the_page_says_where_to_find_it(browser: Open) -> None:
    answer = browser().get("/?run=run_1&x=%22")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    for words in ("make up", "/?token=", f"cat .lcl/{TOKEN_FILE}"):
        assert words in answer.text
    assert 'action="login?run=run_1&amp;x=%22"' in answer.text
    assert SECRET not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/config"),
        ("GET", f"/config?token={SECRET}"),
        ("GET", "/media/c/i"),
        ("GET", "/vectors/c.npy"),
        ("GET", "/artifacts/run_1/x.json"),
        ("GET", "/assets/index.js"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/run/predict"),
    ],
)
def test_an_anonymous_user_gets_nothing(browser: Open, verb: str, path: str) -> None:
    answer = browser().request(verb, path)
    assert (answer.status_code, answer.headers["x-lcl-sign-in"]) == (401, "1")


@pytest.mark.parametrize("wrong", ["", "x", SECRET[:-1], SECRET + "x", SECRET.upper(), "ü", "%00", "x" * 9000])
def test_a_wrong_token_opens_nothing(browser: Open, wrong: str) -> None:
    http = browser()
    answer = http.get(f"/?token={wrong}")
    assert (answer.status_code, "set-cookie" in answer.headers) == (401 if wrong else 200, False)
    assert ("not the token" in answer.text) is bool(wrong)
    if wrong:
        assert http.post("/login", data={"key": wrong}).status_code in (401, 413)
    assert http.get("/config").status_code == 401


def test_the_printed_address_opens_a_session_and_leaves_the_address(browser: Open) -> None:
    http = browser()
    answer = http.get(f"/?tab=runs&token={SECRET}&run=a%26b")
    assert (answer.status_code, answer.headers["location"]) == (303, "./?tab=runs&run=a%26b")
    assert answer.headers["cache-control"] == "no-store"
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=lax", "path=/"} <= words
    assert SECRET not in answer.headers["set-cookie"]
    assert http.get("/config").status_code == 200
    assert http.get("/?tab=runs").status_code == 200
    typed = browser()
    assert typed.post("/login?tab=runs", data={"key": SECRET}).headers["location"] == "./?tab=runs"
    assert typed.get("/config").status_code == 200


def test_opened_again_it_is_the_same_session(browser: Open) -> None:
    http = browser()
    http.get(f"/?token={SECRET}")
    before = dict(http.cookies)
    answer = http.get(f"/?token={SECRET}")
    assert (answer.status_code, answer.headers["location"], "set-cookie" in answer.headers) == (303, "./", False)
    assert dict(http.cookies) == before
    other = browser()
    other.get(f"/?token={SECRET}")
    assert dict(other.cookies) != before, "the token opens further browsers, each with a session of its own"


def test_each_port_has_a_cookie_of_its_own(browser: Open) -> None:
    """Pages on other ports of the machine share its cookies: two services must not end each other's sessions."""
    names = set()
    for address in (ADDRESS, "http://lcl.example:9000", "http://lcl.example", "https://lcl.example"):
        http = browser(address)
        assert http.get(f"/?token={SECRET}").status_code == 303
        names.add(next(iter(http.cookies)))
    assert names == {"lcl_session_7865", "lcl_session_9000", "lcl_session", "__Host-lcl_session"}


def test_without_a_token_in_the_settings_whoever_opens_the_page_may_use_it() -> None:
    app = build_app(StubService(dict), UiSettings(token="", _env_file=None))  # type: ignore[arg-type,call-arg]
    with TestClient(app, ADDRESS) as http:
        assert http.get("/config").status_code == 401
        assert http.get("/").status_code == 200
        assert http.get("/config").status_code == 200


def test_the_kept_token_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    token = load_or_create_token(home)
    assert TOKEN_PATTERN.fullmatch(token)
    assert len(token) >= 40
    assert stat.S_IMODE((home / TOKEN_FILE).stat().st_mode) == 0o600
    assert [file.name for file in home.iterdir()] == [TOKEN_FILE]
    assert load_or_create_token(home) == token
    (home / TOKEN_FILE).chmod(0o644)
    assert load_or_create_token(home) == token
    assert stat.S_IMODE((home / TOKEN_FILE).stat().st_mode) == 0o600
    (home / TOKEN_FILE).write_text("short")
    assert load_or_create_token(home) not in (token, "short")


def test_the_page_takes_the_kept_token_when_the_settings_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCL_HOME", str(tmp_path))
    app = build_app(StubService(dict), UiSettings(_env_file=None))  # type: ignore[arg-type,call-arg]
    with TestClient(app, ADDRESS) as http:
        assert http.get(f"/?token={load_or_create_token(tmp_path)}").status_code == 200


def test_the_address_with_its_token() -> None:
    assert url_with_token(ADDRESS, "x") == f"{ADDRESS}/?token=x"
    assert url_with_token(ADDRESS, "") == ADDRESS
