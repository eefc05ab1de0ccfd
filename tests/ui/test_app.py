"""The page as a server: it starts without a service, reports nothing to anyone, and leaves when output."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from ui.__main__ import main
from ui.app import build_app, draw_menu, service_status
from ui.settings import UiSettings

ROOT = Path(__file__).parents[2]
START_SECONDS = 60


ADDRESS, TOKEN = "http://127.0.0.1:7865", "the-token-of-the-tests"


@contextmanager
def opened(**settings: Any) -> Iterator[TestClient]:
    """The page of a service that is not there, opened with its printed address."""
    from api.client import Client

    given = UiSettings(token=TOKEN, _env_file=None, **settings)  # type: ignore[call-arg]
    with (
        Client("http://127.0.0.1:9", "key", attempts=1) as client,
        TestClient(build_app(client, given), ADDRESS) as http,
    ):
        assert http.get(f"/?token={TOKEN}").status_code == 200
        yield http


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    with opened() as http:
        yield http


def test_the_page_is_served_without_a_service(http: TestClient) -> None:
    answer = http.get("/")
    assert answer.status_code == 200
    assert "LCL · Latent Compression Learning" in answer.text
    assert http.get("/healthz").json() == {"status": "ok"}


def test_nothing_on_it_is_fetched_from_elsewhere(http: TestClient) -> None:
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//[^"]*"', http.get("/").text)
    assert fetched == []
    assert "fonts.g" not in http.get("/theme.css").text


def test_it_offers_no_interface_of_its_own(http: TestClient) -> None:
    info = http.get("/gradio_api/info").json()
    assert info["named_endpoints"] == {}
    assert http.get("/docs").status_code == 404
    config = http.get("/config").json()
    assert config["footer_links"] == []
    assert not config.get("analytics_enabled")


def test_no_event_goes_through_the_queue_whose_stream_may_close_before_the_answer(http: TestClient) -> None:
    events = http.get("/config").json()["dependencies"]
    assert events
    assert {event["queue"] for event in events if event["backend_fn"]} == {False}


def test_the_page_sleeps_while_nobody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def recorded_sleep(seconds: float, *more: Any) -> Any:
        waits.append(seconds)
        return await sleep(seconds, *more)

    monkeypatch.setattr(asyncio, "sleep", recorded_sleep)
    with opened():
        pass
    assert waits
    assert min(waits) >= 0.05


def test_below_another_path_it_knows_its_root() -> None:
    with opened(root_path="/lcl") as http:
        assert http.get("/config").json()["root"].endswith("/lcl")


def test_the_state_of_the_service_in_one_line(service: Any, away: Exception) -> None:
    assert "Ready" in service_status(service(health={"ready": True, "checks": {}}))
    checks = {"database": {"ok": True, "detail": "fine"}, "worker": {"ok": False, "detail": "none <here>"}}
    partly = service_status(service(health={"ready": False, "checks": checks}))
    assert "worker: none &lt;here&gt;" in partly
    assert "database" not in partly
    assert "no answer from" in service_status(service(health=away))


def test_the_guide_is_linked_where_there_is_one(service: Any, away: Exception) -> None:
    assert "docs/guide/" in draw_menu(service(guide_file=b""))
    assert "docs/guide/" not in draw_menu(service(guide_file=away))


def test_the_process_starts_answers_and_leaves_on_sigterm(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {"LCL_UI_PORT": str(port), "LCL_API_URL": "http://127.0.0.1:9", "LCL_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "ui"], cwd=ROOT, env={**os.environ, **ours})
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, "it left by itself"
            assert time.monotonic() < deadline, "it did not start"
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LCL_UI_PORT", "many", "LCL_UI_PORT: Input should be a valid integer"),
        ("LCL_UI_PORT", "70000", "LCL_UI_PORT: Input should be less than or equal to 65535"),
        ("LCL_UI_SESSION_HOURS", "0", "LCL_UI_SESSION_HOURS: "),
        ("LCL_UI_MAX_UPLOAD", "much", "LCL_UI_MAX_UPLOAD: could not parse value and unit"),
        ("LCL_UI_MAX_UPLOAD", "1gb", "LCL_UI_MAX_UPLOAD, LCL_UI_MAX_UPLOAD_REQUEST, "),
        ("LCL_UI_ALL_UPLOADS", "1mb", "LCL_UI_MAX_UPLOAD, LCL_UI_MAX_UPLOAD_REQUEST, "),
        ("LCL_UI_HOSTS", "http://lcl.example", "LCL_UI_HOSTS: must be hosts such as lcl.example.org"),
        ("LCL_UI_HOSTS", "*", "LCL_UI_HOSTS: must be hosts such as lcl.example.org"),
        ("LCL_UI_TOKEN", "short", "LCL_UI_TOKEN: must be 16 to 256 letters, digits"),
        ("LCL_TEAM", "perhaps", "LCL_TEAM: "),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main() == 2
    output = capsys.readouterr().err
    assert output.startswith(f"error: {said}")
    assert output.count("\n") == 1


@pytest.mark.parametrize("path", ["/", "/theme.css", "/config", "/nowhere"])
def test_every_answer_keeps_the_browser_at_home(http: TestClient, path: str) -> None:
    headers = http.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert (policy["object-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert not [source for source in policy.values() if "*" in source or "http" in source]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


EVIL = "https://evil.example"


@pytest.mark.parametrize(
    ("verb", "headers"),
    [
        ("POST", {"origin": EVIL}),
        ("POST", {"origin": "null"}),
        ("POST", {"origin": f"{EVIL}:80/127.0.0.1:7865"}),
        ("POST", {"origin": EVIL, "x-forwarded-host": "evil.example"}),
        ("POST", {"origin": "http://localhost:7865"}),
        ("POST", {"sec-fetch-site": "cross-site"}),
        ("POST", {"sec-fetch-site": "same-site", "origin": ADDRESS}),
        ("OPTIONS", {"origin": EVIL, "access-control-request-method": "POST"}),
    ],
)
def test_another_site_cannot_act_through_it(http: TestClient, verb: str, headers: dict[str, str]) -> None:
    answer = http.request(verb, "/gradio_api/run/predict", headers=headers, json={})
    assert answer.status_code == 403
    read = http.get("/config", headers=headers)
    for answered in (answer, read):
        assert not [name for name in answered.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": ADDRESS}, {"origin": "https://outside.example", "sec-fetch-site": "same-origin"}],
)
def test_the_page_itself_may_act(http: TestClient, headers: dict[str, str]) -> None:
    assert http.post("/gradio_api/run/predict", headers=headers, json={}).status_code == 422


def test_a_name_of_the_settings_may_act_behind_a_proxy_that_writes_another_host() -> None:
    with opened(hosts="outside.example") as http:
        for origin, status in (("https://outside.example", 422), (EVIL, 403)):
            answer = http.post("/gradio_api/run/predict", headers={"origin": origin}, json={})
            assert answer.status_code == status


def test_tls_is_asked_for_again_where_it_was_spoken(http: TestClient) -> None:
    assert "strict-transport-security" not in http.get("/healthz").headers
    with opened(hosts="lcl.example") as outside:
        headers = outside.get("https://lcl.example/healthz").headers
    assert headers["strict-transport-security"] == "max-age=31536000"
