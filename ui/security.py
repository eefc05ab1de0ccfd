"""Middleware that needs no session: host names (DNS rebinding), cross-site requests, response headers, allowed routes."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9][a-z0-9._-]{0,252})(?::([0-9]{1,5}))?", re.ASCII)
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
HOST_EXEMPT_PATHS = ("/healthz",)  # probes of containers ask by whatever address the container has
HostPort = tuple[str, int | None]  # host, and port if one is said


def parse_host(value: str) -> HostPort | None:
    """``name``, ``name:port``, ``[v6]:port`` in lower case; None for anything else."""
    found = HOST_PATTERN.fullmatch(value.strip().lower())
    if found is None:
        return None
    return found[1], int(found[2]) if found[2] else None


def parse_hosts(value: str) -> list[HostPort]:
    """A list of hosts, parted by commas. Raises: ValueError."""
    names = [part for part in value.split(",") if part.strip()]
    parsed = [name for part in names if (name := parse_host(part))]
    if len(parsed) != len(names):
        raise ValueError("must be hosts such as lcl.example.org or 10.0.0.5:8080, parted by commas")
    return parsed


class HostMiddleware:
    """Refuses with 403 whatever was asked under another name, WebSockets included. Plain ASGI.

    Args:
        hosts: names that are allowed besides those of the loopback with the port that the page listens on; without a
            port: under any.
        any_host: allow every name while ``hosts`` is empty.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[HostPort] = (), any_host: bool = False) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.any_host = any_host and not hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "lifespan"
            or scope["path"] in HOST_EXEMPT_PATHS
            or self.any_host
            or self._is_allowed(scope)
        ):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(_host_error(scope), 403)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = _host_headers(scope)
        name = parse_host(given[0]) if len(given) == 1 else None
        if name is None:
            return False
        host, port = name
        port = port or DEFAULT_PORTS.get(scope.get("scheme", "http"))
        server = scope.get("server")
        if host in LOOPBACK and server is not None and port == server[1]:
            return True
        return (host, None) in self.hosts or (host, port) in self.hosts


def _host_headers(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]


def _host_error(scope: Scope) -> str:
    given = _host_headers(scope)
    name = given[0] if len(given) == 1 and parse_host(given[0]) else ""
    under = f"the name {name}" if name else "this name"
    return f"the page is not served under {under}; if it should be, add the name to LCL_UI_HOSTS and start it again\n"


SAFE_METHODS = ("GET", "HEAD")
CROSS_SITE_ERROR = "this was asked by another site; open the page itself"


class CsrfMiddleware:
    """Refuses what another site's page would change, and invites none to read. Plain ASGI.

    Args:
        hosts: names of the page besides the one that a request says in ``Host``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[HostPort] = ()) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] not in SAFE_METHODS
            and is_cross_site(Headers(scope=scope), self.hosts)
        ):
            await PlainTextResponse(CROSS_SITE_ERROR, 403)(scope, receive, send)
            return

        async def send_uninviting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
            await send(message)

        await self.app(scope, receive, send_uninviting if scope["type"] == "http" else send)


def is_cross_site(headers: Headers, hosts: Collection[HostPort] = ()) -> bool:
    """Whether a browser says that another site asks. It says so where the connection is safe; else the origin tells.

    Programs, which say neither, are their own masters. ``X-Forwarded-Host`` is not asked: anybody can send it.
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


# Gradio writes scripts and styles into its page and builds functions from texts; nothing comes from elsewhere.
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


class SecurityHeadersMiddleware:
    """Adds ``HEADERS`` to every answer that does not say otherwise, and ``TLS_HEADERS`` where the visitor came by TLS.

    Plain ASGI: streams go through unbuffered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (SECURITY_HEADERS | (TLS_HEADERS if scope["scheme"] == "https" else {})).items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


OWN_GET_ROUTES = (
    r"/healthz", r"/signed-in", r"/media/.+", r"/corpus/.+", r"/study/.+", r"/encoder/.+", r"/vectors/.+",
)  # fmt: skip
LOGIN_GET_ROUTES, LOGIN_POST_ROUTES = (r"/login",), (r"/login", r"/logout")
GRADIO_GET_ROUTES = (
    r"/", r"/config/?", r"/theme\.css", r"/favicon\.ico", r"/manifest\.json", r"/robots\.txt", r"/pwa_icon(/\d+)?",
    r"/assets/.+", r"/static/.+", r"/svelte/.+", r"/gradio_api/info/?", r"/gradio_api/theme\.css",
    r"/gradio_api/app_id/?", r"/gradio_api/heartbeat/[^/]+",
    r"/gradio_api/upload_progress", r"/gradio_api/file=.+",
)  # fmt: skip
GRADIO_POST_ROUTES = (r"/gradio_api/run/predict", r"/gradio_api/upload")
FORBIDDEN_PARAMETERS = {"deep_link"}  # opens a page's state that somebody else has kept


class RouteAllowlistMiddleware:
    """Answers 404 to every request for a route that the page does not need. Plain ASGI.

    Args:
        sign_in: whether visitors sign in here; Gradio has routes of the same names.
    """

    def __init__(self, app: ASGIApp, sign_in: bool) -> None:
        self.app = app
        self.read = _compile_routes(*OWN_GET_ROUTES, *GRADIO_GET_ROUTES, *(LOGIN_GET_ROUTES if sign_in else ()))
        self.write = _compile_routes(*GRADIO_POST_ROUTES, *(LOGIN_POST_ROUTES if sign_in else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_needed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("there is nothing here; the page is at its root", 404)(scope, receive, send)

    def _is_needed(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD", "POST"):
            return False
        routes = self.write if scope["method"] == "POST" else self.read
        query = scope["query_string"].decode("latin-1")
        named = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
        return routes.fullmatch(scope["path"]) is not None and not named & FORBIDDEN_PARAMETERS


def _compile_routes(*routes: str) -> re.Pattern[str]:
    return re.compile("|".join(routes), re.DOTALL)
