"""Middleware around every request: request id, security headers, latency, error responses, authentication.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.auth import Authenticator, RateLimiter
from api.core.errors import Problem, error_response, fault_response, user_error_response
from lcl_core.common.errors import TERMINATIONS

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
UNLOGGED_ROUTES = ("/healthz", "/readyz", "/metrics")  # called every few seconds
AUTHENTICATED_PREFIX = "/v1/"  # every route below it needs a key; no other route reads a body
MAX_BODY_BYTES = 64 << 20  # of a request, which the gateway bounds as well
UPLOADS = "/v1/uploads"  # whose route bounds its body itself


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
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
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
                app = self.app
                if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # no text of a database
                    app = error_response(400, "invalid_value", "the address holds a NUL character")
                await app(scope, receive, send_with_headers)
            except TERMINATIONS:
                raise
            except BaseException as error:  # logged in full, reported in one line
                response = fault_response(error, request_id, self.home)
                if status:  # the response has begun: only closing the connection reports the error
                    raise
                await response(scope, receive, send_with_headers)
            finally:
                seconds = round(time.perf_counter() - started, 4)
                route = getattr(scope.get("route"), "path", "unmatched")  # a template: ids would be labels of metrics
                self.observe(scope["method"], route, status, seconds)
                if route not in UNLOGGED_ROUTES:  # without the query, which may be private
                    run = {"run": scope["path_params"]["run_id"]} if "run_id" in scope.get("path_params", {}) else {}
                    details = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": seconds}
                    log.info("request", **details, **run)


class AuthenticationMiddleware:
    """Refuse a request without a valid key, or above its rate, before its body is read; bound the body.

    Routes find the ``principal`` in the request's state.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, rate_limiter: RateLimiter) -> None:
        self.app = app
        self._authenticator, self._rate_limiter = authenticator, rate_limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(AUTHENTICATED_PREFIX):
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._authenticator.authenticate(Headers(scope=scope).get("authorization"))
            await self._rate_limiter.hit(principal.prefix)
        except Problem as error:
            await user_error_response(error)(scope, receive, send)
            return
        scope["state"]["principal"] = principal
        await self.app(scope, receive if scope["path"] == UPLOADS else _bounded(receive), send)


def _bounded(receive: Receive) -> Receive:
    """``receive`` that ends a body of more than ``MAX_BODY_BYTES`` with 413."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send less at once")
        return message

    return receive_bounded
