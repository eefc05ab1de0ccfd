"""ASGI middleware that needs no session: host names, cross-site requests, response headers, allowed routes.

Host names: a web site can resolve its own name to 127.0.0.1 (DNS rebinding); the browser then treats the page as part
of that site, but sends the site's name in ``Host``, which no script can change. Cross-site requests: Gradio under a
name of its own answers every origin. Routes: Gradio has about ninety; its browser code needs the few listed here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.client import ApiError

TOO_MANY = "Too many requests at once. Wait for some of them to end, then try again."
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9][a-z0-9._-]{0,252})(?::([0-9]{1,5}))?", re.ASCII)
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
HOST_EXEMPT_PATHS = ("/healthz",)  # container probes use the address of the container
HostPort = tuple[str, int | None]
SAFE_METHODS = ("GET", "HEAD")
CROSS_SITE_ERROR = "cross-site request refused; open the page itself"

# Gradio uses inline scripts and styles and eval; nothing is loaded from other hosts.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
TLS_HEADERS = {"strict-transport-security": "max-age=31536000"}

OWN_GET_ROUTES = (
    r"/healthz", r"/login", r"/loading", r"/media/.+", r"/item/.+", r"/map/.+", r"/corpus/.+", r"/study/.+",
    r"/encoder/.+", r"/vectors/.+", r"/artifacts/.+", r"/docs/guide(/.*)?",
)  # fmt: skip
GRADIO_GET_ROUTES = (
    r"/", r"/config/?", r"/theme\.css", r"/favicon\.ico", r"/manifest\.json", r"/robots\.txt", r"/pwa_icon(/\d+)?",
    r"/assets/.+", r"/static/.+", r"/svelte/.+", r"/gradio_api/info/?", r"/gradio_api/theme\.css",
    r"/gradio_api/app_id/?", r"/gradio_api/heartbeat/[^/]+",
    r"/gradio_api/upload_progress", r"/gradio_api/file=.+",
)  # fmt: skip
POST_ROUTES = re.compile(r"/gradio_api/(run/predict|upload)|/login|/logout")
GET_ROUTES = re.compile("|".join((*OWN_GET_ROUTES, *GRADIO_GET_ROUTES)), re.DOTALL)
FORBIDDEN_PARAMETERS = {"deep_link"}  # opens the saved state of another page


def parse_host(value: str) -> HostPort | None:
    """``name``, ``name:port``, ``[v6]:port`` in lower case; None for anything else."""
    match = HOST_PATTERN.fullmatch(value.strip().lower())
    if match is None:
        return None
    return match[1], int(match[2]) if match[2] else None


def parse_hosts(value: str) -> list[HostPort]:
    """A list of hosts, separated by commas. Raises: ValueError."""
    names = [part for part in value.split(",") if part.strip()]
    parsed = [name for part in names if (name := parse_host(part))]
    if len(parsed) != len(names):
        raise ValueError("must be hosts such as lcl.example.org or 10.0.0.5:8080, separated by commas")
    return parsed


class HostMiddleware:
    """Refuses requests under other host names with 403, WebSockets included.

    Args:
        hosts: allowed besides loopback names with the port that the page listens on; without a port: with any port.
        any_host: allow every name while ``hosts`` is empty.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[HostPort] = (), any_host: bool = False) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.any_host = any_host and not hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in HOST_EXEMPT_PATHS or self.any_host:
            await self.app(scope, receive, send)
            return
        values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        host = parse_host(values[0]) if len(values) == 1 else None
        if host is not None and self._is_allowed(host, scope):
            await self.app(scope, receive, send)
            return
        name = f"the name {values[0]}" if host else "this name"
        error = (
            f"the page is not served under {name}; if it should be, add the name to LCL_UI_HOSTS and start it again\n"
        )
        await _refuse(403, error, scope, receive, send)

    def _is_allowed(self, name: HostPort, scope: Scope) -> bool:
        host, port = name
        port = port or DEFAULT_PORTS.get(scope.get("scheme", "http"))
        server = scope.get("server")
        if host in LOOPBACK and server is not None and port == server[1]:
            return True
        return (host, None) in self.hosts or (host, port) in self.hosts


class CsrfMiddleware:
    """Refuses cross-site requests that change something; ``hosts``: names of the page besides the one in ``Host``."""

    def __init__(self, app: ASGIApp, hosts: Sequence[HostPort] = ()) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] not in SAFE_METHODS and is_cross_site(Headers(scope=scope), self.hosts):
            await _refuse(403, CROSS_SITE_ERROR, scope, receive, send)
            return

        async def send_without_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
            await send(message)

        await self.app(scope, receive, send_without_cors)


def is_cross_site(headers: Headers, hosts: Collection[HostPort] = ()) -> bool:
    """Does a browser report another site? ``Sec-Fetch-Site`` on secure connections, else ``Origin``.

    Programs send neither. ``X-Forwarded-Host`` is not trusted: any client can send it.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    netloc = urlsplit(origin).netloc
    name = parse_host(netloc)
    return netloc != headers.get("host") and not (name and (name in hosts or (name[0], None) in hosts))


class SecurityHeadersMiddleware:
    """Adds ``SECURITY_HEADERS``, and over TLS ``TLS_HEADERS``, to responses that do not set them. Buffers nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        added = SECURITY_HEADERS | (TLS_HEADERS if scope["scheme"] == "https" else {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class RouteAllowlistMiddleware:
    """Answers 404 to every request for a route that the page does not use."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            await self.app(scope, receive, send)
        else:
            await _refuse(404, "there is nothing here; the page is at its root", scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD", "POST"):
            return False
        routes = POST_ROUTES if scope["method"] == "POST" else GET_ROUTES
        query = scope["query_string"].decode("latin-1")
        parameters = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
        return routes.fullmatch(scope["path"]) is not None and not parameters & FORBIDDEN_PARAMETERS


class RequestPlaces:
    """So many requests of a key run at a time, and so many more wait for their turn."""

    def __init__(self, running: int, waiting: int = 0) -> None:
        self.running = running
        self.waiting = waiting
        self._asked: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def taken(self, key: str) -> AsyncIterator[None]:
        """A place for the block. Raises: ApiError 429 where none is left to wait for."""
        if self._asked[key] >= self.running + self.waiting:
            raise ApiError(429, "too_many_requests", TOO_MANY)
        self._asked[key] += 1
        try:
            async with self._turns.setdefault(key, asyncio.Semaphore(self.running)):
                yield
        finally:
            self._asked[key] -= 1
            if not self._asked[key]:
                del self._asked[key], self._turns[key]


async def _refuse(status: int, error: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse(error, status)(scope, receive, send)
