"""Middleware around every request: request id, security headers, latency, error responses, header checks.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.errors import error_response, fault_response

log = structlog.get_logger(__name__)

Observer = Callable[[str, str, int, float], None]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
TERMINATIONS = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)  # not errors
UNLOGGED_ROUTES = ("/healthz", "/readyz", "/metrics")  # called every few seconds
MAX_HEADER_BYTES = 32 * 1024
SINGLE_HEADERS = frozenset(
    (b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key", b"last-event-id", b"range")
)


class RequestContextMiddleware:
    """Request id, security headers, latency, and an error response for every exception.

    ``BaseException`` is caught too: a panic in a Rust library is no ``Exception``.

    Args:
        observe: called with (method, route template, status, seconds) after each request.
        home: named in the error of a full disk.
    """

    def __init__(self, app: ASGIApp, observe: Observer, home: Path) -> None:
        self.app = app
        self.observe = observe
        self.home = home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id  # the audit log names it
        started, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_headers)
            except TERMINATIONS:
                raise
            except BaseException as error:  # logged in full, reported in one line
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:  # the response has begun: only closing the connection reports the error
                    raise
                await fault_response(error, request_id, self.home)(scope, receive, send_with_headers)
            finally:
                self._log_request(scope, status, time.perf_counter() - started)

    def _log_request(self, scope: Scope, status: int, seconds: float) -> None:
        """One metric and one log line a request. The line has no query, which may be private."""
        route = _route_template(scope)
        self.observe(scope["method"], route, status, seconds)
        run = {"run": scope["path_params"]["run_id"]} if "run_id" in scope.get("path_params", {}) else {}
        if route not in UNLOGGED_ROUTES:
            log.info(
                "request", method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4), **run
            )


class HeaderCheckMiddleware:
    """Refuse NUL in the URL, headers that are too large, and headers that parsers read differently."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _header_error(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)


def _header_error(scope: Scope) -> ASGIApp | None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return error_response(400, "bad_request", "the address holds a NUL character")
    size, names = 0, set()
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name in names and name in SINGLE_HEADERS:  # a proxy might read another one
            return error_response(400, "bad_request", f"send the header {name.decode('ascii')} once")
        names.add(name)
    if size > MAX_HEADER_BYTES:
        return error_response(431, "headers_too_large", f"the headers are larger than {MAX_HEADER_BYTES} bytes")
    if {b"content-length", b"transfer-encoding"} <= names:  # request smuggling
        return error_response(400, "bad_request", "send a length or chunks, not both")
    return None


def _request_id(scope: Scope) -> str:
    """The client's ``X-Request-Id`` if it is well-formed, else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _route_template(scope: Scope) -> str:
    """The path with parameter names, so that ids do not become metric labels."""
    return getattr(scope.get("route"), "path", "unmatched")
