"""Middleware around every request: request id, security headers, latency, error responses, authentication, body.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core import limits
from api.core.auth import Authenticator, RateLimiter
from api.core.errors import Problem, error_response, fault_response

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
AUTHENTICATED_PREFIX = "/v1/"  # every route below it needs a key; no other route reads a body
METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
UPLOADS = "/v1/uploads"  # whose body its route reads as a stream


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
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:  # the response has begun: only closing the connection reports the error
                    raise
                await fault_response(error, request_id, self.home)(scope, receive, send_with_headers)
            finally:
                seconds = round(time.perf_counter() - started, 4)
                route = getattr(scope.get("route"), "path", "unmatched")  # a template: ids would be labels of metrics
                self.observe(scope["method"], route, status, seconds)
                if route not in UNLOGGED_ROUTES:  # without the query, which may be private
                    run = {"run": scope["path_params"]["run_id"]} if "run_id" in scope.get("path_params", {}) else {}
                    details = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": seconds}
                    log.info("request", **details, **run)


class AuthenticatedBodyMiddleware:
    """Authenticate a request by its headers, count it, read its body, then call the application.

    The application finds ``principal`` in the request's state. A request that may not go on (no valid key, rate limit,
    no database) has ``refusal`` instead, the error, and no body: ``api.deps`` raises it for routes that need a key, so
    that an unknown address is still 404.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, rate_limiter: RateLimiter) -> None:
        self.app = app
        self._authenticator, self._rate_limiter = authenticator, rate_limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        authorized = False
        if scope["path"].startswith(AUTHENTICATED_PREFIX):
            try:
                principal = await self._authenticator.authenticate(Headers(scope=scope).get("authorization"))
                await self._rate_limiter.hit(principal.prefix)
                state["principal"] = principal
                authorized = True
            except Exception as error:  # raised again inside the application's error handlers
                state["refusal"] = error
        if not authorized:
            await self.app(scope, _replay(b"", receive), send)
        elif scope["method"] in METHODS_WITHOUT_BODY or scope["path"] == UPLOADS:
            await self.app(scope, receive, send)
        else:
            try:
                body = await _read_body(scope, receive)
            except Problem as error:
                await error_response(error.status, error.code, str(error), headers=error.headers)(scope, receive, send)
                return
            if body is not None:
                await self.app(scope, _replay(body, receive), send)


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The request's body; None: the client disconnected before its end. Raises: Problem 408 or 413."""
    body = bytearray()
    announced = Headers(scope=scope).get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    with anyio.move_on_after(limits.BODY_SECONDS):
        while max(size, len(body)) <= limits.MAX_BODY_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body") and len(body) <= limits.MAX_BODY_BYTES:
                return bytes(body)
        words = f"the body is larger than {limits.MAX_BODY_BYTES} bytes; send less at once"
        raise Problem(413, "too_large", words)
    late = f"the body did not arrive within {limits.BODY_SECONDS:g} s; send it faster"
    raise Problem(408, "deadline_exceeded", late, headers={"connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns ``body`` once, then the messages that follow (the disconnect)."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
