"""Under which names the page answers: a web site whose name leads to this machine is none of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ui.hostile_events import Browser
from ui.app import build_app
from ui.security import parse_host, parse_hosts
from ui.sessions import SessionStore
from ui.settings import UiSettings

TOKEN = "the-token-of-the-tests"
PATHS = ["/", f"/?token={TOKEN}", "/config", "/login", "/gradio_api/file=/etc/passwd", "/assets/index.js"]


def answered(app: Any, host: str, path: str = "/config", method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and body; the page listens on 7865."""
    browser = Browser(app)
    status, body, _ = asyncio.run(browser.request(method, path, b"", {"host": host, **headers}))
    return status, body


@pytest.fixture(scope="module")
def one_machine(service: Any) -> Any:
    return page(service, team=False)


def page(service: Any, team: bool, hosts: str = "") -> Any:
    settings = UiSettings(team=team, hosts=hosts, token=TOKEN, _env_file=None)  # type: ignore[call-arg]
    wired = dict.fromkeys(("cancel_study", "resume_study"))  # only to be there when the page is built
    return build_app(service(**wired), settings, SessionStore(60) if team else None)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example:7865", "[::2]:7865", "0.0.0.0:7865", "", "127.0.0.1:7865,evil.example",
        "evil.example@127.0.0.1:7865", "127.0.0.1:7865@evil.example", "127.0.0.1:007865x", "2130706433:7865",
    ],
)  # fmt: skip
def test_another_name_is_refused(one_machine: Any, host: str) -> None:
    for path in PATHS:
        status, body = answered(one_machine, host, path)
        assert (status, b"LCL_UI_HOSTS" in body) == (403, True), path
    assert answered(one_machine, host, "/gradio_api/run/predict", "POST")[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7865", "localhost:9000", "[::1]:7865", "LOCALHOST"])
def test_the_names_of_the_machine_itself_are_its_own(one_machine: Any, host: str) -> None:
    """Whatever the port, which an SSH tunnel chooses."""
    assert answered(one_machine, host)[0] == 401  # which is the token's matter
    assert answered(one_machine, host, f"/?token={TOKEN}")[0] == 303


def test_what_a_proxy_is_said_to_have_been_asked_does_not_count(one_machine: Any) -> None:
    headers = {"x-forwarded-host": "127.0.0.1:7865", "forwarded": "host=127.0.0.1:7865"}
    assert answered(one_machine, "evil.example", **headers)[0] == 403


def test_probes_may_ask_by_any_address(one_machine: Any) -> None:
    assert answered(one_machine, "10.1.2.3:7865", "/healthz")[0] == 200


def test_a_websocket_is_closed(one_machine: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/gradio_api/queue/join", "headers": [(b"host", b"127.0.0.1:7865")]}
    asyncio.run(one_machine(scope, None, send))
    assert sent == ["websocket.close"]


def test_the_settings_name_more(service: Any) -> None:
    app = page(service, team=False, hosts="lcl.example, 10.0.0.5:8080,[fe80::1]")
    for host in ("lcl.example", "LCL.example:443", "10.0.0.5:8080", "[fe80::1]:9000", "127.0.0.1:7865"):
        assert answered(app, host)[0] == 401, host
    for host in ("sub.lcl.example", "10.0.0.6"):
        assert answered(app, host)[0] == 403, host


def test_a_team_answers_every_name_until_the_settings_name_some(service: Any) -> None:
    assert answered(page(service, team=True), "lcl.example")[0] == 401
    named = page(service, team=True, hosts="lcl.example")
    assert answered(named, "lcl.example")[0] == 401
    assert answered(named, "evil.example")[0] == 403


def test_two_hosts_are_none(one_machine: Any) -> None:
    async def scenario() -> int:
        browser = Browser(one_machine)
        wrapped = browser.app

        async def with_second(scope: Any, receive: Any, send: Any) -> None:
            await wrapped({**scope, "headers": [*scope["headers"], (b"host", b"evil.example")]}, receive, send)

        browser.app = with_second
        return (await browser.request("GET", "/config"))[0]

    assert asyncio.run(scenario()) == 403


@pytest.mark.parametrize("wrong", ["http://x", "x/y", "x:", "x:port", "*", "a b", "[::1", "x:123456"])
def test_what_is_no_host_is_none(wrong: str) -> None:
    assert parse_host(wrong) is None
    with pytest.raises(ValueError, match="must be hosts"):
        parse_hosts(f"lcl.example,{wrong}")


def test_hosts_are_parted_by_commas() -> None:
    assert parse_hosts(" A.example:80 , b.example,") == ["a.example", "b.example"]
    assert parse_hosts("") == []
