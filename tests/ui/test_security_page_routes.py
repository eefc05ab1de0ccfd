"""Which of Gradio's routes are left: those that its browser side asks for on this page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Mount, Route

from tests.ui.hostile_events import Browser, StubService
from ui.app import build_app
from ui.settings import UiSettings

TOKEN = "the-token-of-the-tests"
KEPT = {
    "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/pwa_icon",
    "/pwa_icon/{size}", "/assets/{path:path}", "/static/{path:path}", "/svelte/{path:path}", "/gradio_api/info",
    "/gradio_api/info/", "/gradio_api/theme.css", "/gradio_api/app_id", "/gradio_api/app_id/",
    "/gradio_api/upload_progress",
    "/gradio_api/file={path_or_url:path}", "/gradio_api/upload", "/gradio_api/run/{api_name}",
    "/login",  # ours answers
}  # fmt: skip
GONE = [
    ("GET", "/gradio_api/deep_link?session_hash=s"),
    ("GET", "/?deep_link=abc"),
    ("GET", "/?x=1&deep_link"),
    ("GET", "/config?deep_link=abc"),
    ("GET", "/config?deep%5Flink=abc"),
    ("GET", "/gradio_api/proxy=http://example.com/"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/queue/data?session_hash=s"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/run/other"),
    ("POST", "/gradio_api/run/predict/"),
    ("POST", "/gradio_api/api/predict"),
    ("POST", "/gradio_api/call/predict"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/reset"),
    ("POST", "/gradio_api/cancel"),
    ("POST", "/gradio_api/stream/x"),
    ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/custom_component/a/client/b/c"),
    ("POST", "/login/"),
    ("GET", "/logout"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/gradio_api/mcp/sse"),
    ("GET", "/gradio_api/heartbeat/s"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/user"),
    ("GET", "//gradio_api/deep_link?session_hash=s"),
    ("GET", "/./gradio_api/deep_link?session_hash=s"),
    ("PUT", "/config"),
    ("DELETE", "/"),
    ("OPTIONS", "/config"),
]


@pytest.fixture(scope="module")
def app() -> Any:
    return build_app(StubService(dict), UiSettings(token=TOKEN, _env_file=None))  # type: ignore[arg-type,call-arg]


def routes_of(router: Any) -> Iterator[Route]:
    for route in router.routes:
        if isinstance(route, Route):
            yield route
        elif included := getattr(route, "original_router", None):
            yield from routes_of(included)


async def opened(app: Any) -> Browser:
    browser = Browser(app)
    status, _, _ = await browser.request("GET", f"/?token={TOKEN}")
    assert status == 303
    return browser


@pytest.mark.parametrize(("method", "path"), GONE)
def test_a_route_that_the_page_does_not_need_is_gone(app: Any, method: str, path: str) -> None:
    async def scenario() -> int:
        return (await (await opened(app)).request(method, path, b"{}", {"content-type": "application/json"}))[0]

    assert asyncio.run(scenario()) == 404


def test_every_route_that_gradio_brings_is_kept_or_gone(app: Any) -> None:
    """Read off Gradio's own application: what another version adds is gone until somebody has said otherwise."""
    mounted = next(route.app for route in app.routes if isinstance(route, Mount))
    routes = list(routes_of(mounted))
    assert len(routes) > 60

    async def scenario() -> dict[str, set[int]]:
        browser = await opened(app)
        gone: dict[str, set[int]] = {}
        for route in routes:
            if route.path in KEPT:
                continue
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in sorted(route.methods or ()):
                status, _, _ = await browser.request(method, path, b"{}", {"content-type": "application/json"})
                gone.setdefault(route.path, set()).add(status)
        return gone

    gone = asyncio.run(scenario())
    assert len(gone) > 40
    assert {path: statuses for path, statuses in gone.items() if statuses != {404}} == {}


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/gradio_api/info", "/healthz", "/?tab=runs"])
def test_what_the_page_needs_is_there(app: Any, path: str) -> None:
    async def scenario() -> int:
        return (await (await opened(app)).request("GET", path))[0]

    assert asyncio.run(scenario()) == 200
