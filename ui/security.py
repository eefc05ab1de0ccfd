"""Guards that need no session: host names, cross-site requests, allowed routes, response headers; bounds on requests.

Host names: a web site can resolve its own name to 127.0.0.1 (DNS rebinding); the browser then treats the page as part
of that site, but sends the site's name in ``Host``, which no script can change. Cross-site requests: Gradio under a
name of its own answers every origin. Routes: Gradio has about ninety; its browser code needs the few listed here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.client import ApiError
from ui.sessions import current_session

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9][a-z0-9._-]{0,252})(?::[0-9]{1,5})?", re.ASCII)
HOST_EXEMPT_PATHS = ("/healthz",)  # container probes use the address of the container

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
    r"/gradio_api/app_id/?", r"/gradio_api/upload_progress", r"/gradio_api/file=.+",
)  # fmt: skip
POST_ROUTES = re.compile(r"/gradio_api/(run/predict|upload)|/login|/logout")
GET_ROUTES = re.compile("|".join((*OWN_GET_ROUTES, *GRADIO_GET_ROUTES)), re.DOTALL)
FORBIDDEN_PARAMETERS = {"deep_link"}  # opens the saved state of another page


def parse_host(value: str) -> str | None:
    """``name``, ``name:port``, ``[v6]:port`` -> the name in lower case; None for anything else."""
    match = HOST_PATTERN.fullmatch(value.strip().lower())
    return match[1] if match else None


def parse_hosts(value: str) -> list[str]:
    """A list of hosts, separated by commas. Raises: ValueError."""
    hosts = [parse_host(part) for part in value.split(",") if part.strip()]
    if None in hosts:
        raise ValueError("must be hosts such as lcl.example.org or 10.0.0.5, separated by commas")
    return [host for host in hosts if host]


class GuardMiddleware:
    """Refuses what no page of this service asks for, and adds ``SECURITY_HEADERS`` to every response that lacks them.

    Args:
        hosts: names of the page, besides those of the loopback; None: any name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None = ()) -> None:
        self.app = app
        self.named = frozenset(hosts or ())
        self.hosts = None if hosts is None else self.named | {*LOOPBACK}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        added = SECURITY_HEADERS | (TLS_HEADERS if scope["scheme"] == "https" else {})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
                for name, value in added.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        host = parse_host(names[0]) if len(names) == 1 else None
        if self.hosts is not None and host not in self.hosts and scope["path"] not in HOST_EXEMPT_PATHS:
            name = f"the name {host}" if host else "this name"
            message = f"the page is not served under {name}; if it should be, add it to LCL_UI_HOSTS and start it again"
            return PlainTextResponse(message, 403)
        if scope["method"] not in ("GET", "HEAD") and is_cross_site(headers, self.named):
            return PlainTextResponse("cross-site request refused; open the page itself", 403)
        if not _is_route(scope):
            return PlainTextResponse("there is nothing here; the page is at its root", 404)
        return None


def is_cross_site(headers: Headers, hosts: Collection[str]) -> bool:
    """Does a browser report another site? ``Sec-Fetch-Site`` on secure connections, else ``Origin``.

    Programs send neither. ``X-Forwarded-Host`` is not trusted: any client can send it. ``hosts``: names of the page
    besides the one in ``Host``, which a proxy may have written.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    netloc = urlsplit(origin or "").netloc
    return origin is not None and netloc != headers.get("host") and parse_host(netloc) not in hosts


def _is_route(scope: Scope) -> bool:
    routes = {"GET": GET_ROUTES, "HEAD": GET_ROUTES, "POST": POST_ROUTES}.get(scope["method"])
    parameters = {name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)}
    return bool(routes and routes.fullmatch(scope["path"])) and not parameters & FORBIDDEN_PARAMETERS


class RequestPlaces:
    """So many requests of a key run at a time, and so many more wait for their turn. A dependency of routes."""

    def __init__(self, running: int, waiting: int = 0) -> None:
        self.running = running
        self.waiting = waiting
        self._asked: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}

    async def __call__(self) -> AsyncIterator[None]:
        async with self.taken():
            yield

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """A place for the block. Raises: ApiError 429 where none is left to wait for."""
        session = current_session.get()
        key = session.key if session else ""
        if self._asked[key] >= self.running + self.waiting:
            message = "Too many requests at once. Wait for some of them to end, then try again."
            raise ApiError(429, "too_many_requests", message)
        self._asked[key] += 1
        try:
            async with self._turns.setdefault(key, asyncio.Semaphore(self.running)):
                yield
        finally:
            self._asked[key] -= 1
            if not self._asked[key]:
                del self._asked[key], self._turns[key]


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body, within bounds of bytes and time. Raises: ApiError 413, 408."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise ApiError(413, "too_large", "That is more than the page takes at once.")
    except (TimeoutError, ClientDisconnect):
        raise ApiError(408, "too_slow", "What was sent did not arrive. Try again.") from None
    return bytes(body)
