"""The door of a team's page: who is let in, what a refusal says, and that everybody acts with a key of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.client import ApiError, Client
from ui.app import build_app
from ui.auth import COOKIE
from ui.sessions import SessionKeyAuth, SessionStore
from ui.settings import UiSettings

OWNERS = {"Bearer key-ada": "ada", "Bearer key-bob": "bob"}
WIRED = ("cancel_study", "resume_study")
UNAUTHORIZED = ApiError(401, "unauthorized", "the API key is unknown, revoked or expired")


class House:
    """A team's page before a service that knows two keys; ``trouble`` is what the service answers instead."""

    def __init__(self, service: Any) -> None:
        self.sessions = SessionStore(3600)
        self.trouble: ApiError | None = None
        answers = {
            "own_key": lambda: {"owner": self.whose(), "role": "submitter"},
            "datasets": self.no_datasets,
            "health": lambda: {"ready": True},
            "guide_file": lambda: b"",
            **dict.fromkeys(WIRED),  # only to be there when the page is built
            "item_image": lambda *_: self.whose().encode(),
        }
        self.app = build_app(service(**answers), UiSettings(team=True), self.sessions)

    def whose(self) -> str:
        """The owner of the key that the call at hand carries, by the way of a real request."""
        request = httpx.Request("GET", "http://service")
        next(SessionKeyAuth(self.sessions).auth_flow(request))
        if self.trouble:
            raise self.trouble
        owner = OWNERS.get(request.headers.get("authorization", ""))
        if owner is None:
            raise UNAUTHORIZED
        return owner

    def no_datasets(self) -> None:
        raise ApiError(403, "forbidden", f"not for {self.whose()}")


@pytest.fixture(scope="module")
def running(service: Any) -> Iterator[House]:
    page_service = House(service)
    with TestClient(page_service.app):
        yield page_service


@pytest.fixture
def page_service(running: House) -> Iterator[House]:
    yield running
    running.trouble = None


@pytest.fixture
def browser(running: House) -> Any:
    """A fresh browser of the same page."""
    return lambda scheme="http": TestClient(running.app, f"{scheme}://lcl.example", follow_redirects=False)


def sign_in(browser: TestClient, key: str, query: str = "") -> httpx.Response:
    return browser.post(f"/login{query}", data={"key": key})


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/config"),
        ("GET", "/media/c/i"),
        ("GET", "/study/s/table.csv"),
        ("GET", "/vectors/c.npy"),
        ("GET", "/artifacts/run_1/x.json"),
        ("GET", "/gradio_api/file=/etc/hosts"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/logout"),
    ],
)
def test_an_anonymous_user_gets_nothing(browser: Any, verb: str, path: str) -> None:
    answer = browser().request(verb, path)
    assert answer.status_code == 401
    assert answer.headers["x-lcl-sign-in"] == "1"
    made_up = browser()
    made_up.cookies.set(COOKIE, "made-up")
    assert made_up.request(verb, path).status_code == 401


def test_who_opens_the_page_is_asked_for_a_key_and_brought_back(browser: Any) -> None:
    http = browser()
    form = http.get("/?run=run_1&x=%22")
    assert 'action="login?run=run_1&amp;x=%22"' in form.text
    assert (form.status_code, form.headers["cache-control"]) == (200, "no-store")
    answer = sign_in(http, " key-ada ", "?run=run_1")
    assert (answer.status_code, answer.headers["location"]) == (303, "./?run=run_1")
    assert http.get("/").status_code == 200
    assert http.get("/login?run=run_1").headers["location"] == "./?run=run_1"


def test_the_cookie_is_for_this_site_alone_and_no_key(browser: Any) -> None:
    made = sign_in(browser(), "key-ada").headers["set-cookie"]
    words = {word.strip().lower() for word in made.split(";")}
    assert {"httponly", "samesite=lax", "path=/", "max-age=3600"} <= words
    assert "secure" not in words
    assert "key-ada" not in made
    assert made.startswith(f"{COOKIE}=")
    secure = sign_in(browser("https"), "key-ada").headers["set-cookie"]
    words = {word.strip().lower() for word in secure.split(";")}
    assert {"secure", "path=/"} <= words
    assert not any(word.startswith("domain=") for word in words)
    assert secure.startswith(f"__Host-{COOKIE}=")


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("", 422, "Enter your API key"),
        ("  ", 422, "Enter your API key"),
        ("key-<mallory>", 401, "unknown, revoked or expired"),
        ("x" * 5000, 413, "more than the page takes"),
    ],
)
def test_a_wrong_key_is_refused_in_words(browser: Any, key: str, status: int, words: str) -> None:
    http = browser()
    answer = sign_in(http, key)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert 'role="alert"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "mallory" not in answer.text
    assert "set-cookie" not in answer.headers
    assert http.get("/config").status_code == 401


@pytest.mark.parametrize(
    "key", ["key-mallory\r\nX-Other: 1", "key-mallory\x00", "key mallory", "key-mallory\x7f", "key-mallory-ключ"]
)
def test_a_key_that_no_header_can_hold_is_a_wrong_key(key: str) -> None:
    """By the way of a real call: the client's own refusal of such a header would show the key."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sessions = SessionStore(60)
        with Client(f"http://127.0.0.1:{server.server_port}", SessionKeyAuth(sessions), attempts=1) as client:
            app = build_app(client, UiSettings(team=True, _env_file=None), sessions)  # type: ignore[call-arg]
            answer = sign_in(TestClient(app, "http://lcl.example"), key)
        server.shutdown()
    assert (answer.status_code, "This key is not valid" in answer.text) == (401, True)
    assert "mallory" not in answer.text


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        (ApiError(0, "unreachable", "no answer from <api>"), 503, "no answer from &lt;api&gt;"),
        (ApiError(429, "too_many_requests", "slow"), 429, "Too many requests"),
        (ApiError(503, "database_unreachable", "the database is away"), 503, "the database is away"),
    ],
)
def test_a_service_in_trouble_is_reported_from_a_wrong_key(
    page_service: House, browser: Any, trouble: ApiError, status: int, words: str
) -> None:
    page_service.trouble = trouble
    answer = sign_in(browser(), "key-ada")
    assert (answer.status_code, words in answer.text) == (status, True)


def test_another_site_can_sign_nobody_in_or_out(browser: Any) -> None:
    http = browser()
    sign_in(http, "key-ada")
    foreign = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    for path in ("/login", "/logout"):
        assert http.post(path, headers=foreign, data={"key": "key-bob"}).status_code == 403
    assert http.get("/config").status_code == 200


def answered(http: TestClient, output: str, *data: Any) -> str:
    """What the first event that makes ``output`` out of as much ``data`` writes there."""
    config = http.get("/config").json()
    names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    number = next(
        each["id"]
        for each in config["dependencies"]
        if output in [names.get(id_) for id_ in each["outputs"]] and len(each["inputs"]) == len(data)
    )
    body = {"fn_index": number, "data": data, "session_hash": "s"}
    return http.post("/gradio_api/run/predict", json=body).json()["data"][-1]


def visible_owner(http: TestClient) -> str:
    """What the page's corner says."""
    return answered(http, "menu")


def test_everybody_acts_with_a_key_of_their_own(browser: Any) -> None:
    ada, bob = browser(), browser()
    sign_in(ada, "key-ada")
    sign_in(bob, "key-bob")
    for http, name in ((ada, "ada"), (bob, "bob"), (ada, "ada")):
        assert f"<b>{name}</b>" in visible_owner(http)
        assert f"<p>not for {name} <" in answered(http, "documents", None, None, "")
        assert http.get("/media/c/i").content == name.encode()


def test_signing_out_ends_the_session_itself_and_not_only_the_cookie(browser: Any) -> None:
    http, thief = browser(), browser()
    sign_in(http, "key-ada")
    thief.cookies.set(COOKIE, http.cookies[COOKIE])
    assert thief.get("/config").status_code == 200
    answer = http.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert COOKIE not in http.cookies
    assert http.get("/config").status_code == thief.get("/config").status_code == 401


def test_signing_in_again_leaves_no_session_behind(browser: Any) -> None:
    http = browser()
    sign_in(http, "key-ada")
    before = http.cookies[COOKIE]
    sign_in(http, "key-bob")
    thief = browser()
    thief.cookies.set(COOKIE, before)
    assert thief.get("/config").status_code == 401
    assert "<b>bob</b>" in visible_owner(http)


def test_without_a_session_the_page_is_up_all_the_same(browser: Any) -> None:
    assert browser().get("/healthz").json() == {"status": "ok"}


def test_a_team_is_what_the_environment_calls_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LCL_TEAM", raising=False)
    assert UiSettings().team is False
    monkeypatch.setenv("LCL_TEAM", "1")
    assert UiSettings().team is True
