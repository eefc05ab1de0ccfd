"""Middleware around every request: request id, security headers, latency, error responses, authentication, body.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from json import JSONDecodeError
from pathlib import Path

import anyio
import structlog
from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.auth import Authenticator
from api.core.errors import Problem, error_response, fault_response
from api.core.limits import RateLimiter
from api.core.settings import ApiSettings
from lcl_core.common.files import parse_strict_json

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
LARGE_BODY = 256 * 1024  # bytes from which on JSON is checked in a thread
BODIES_AT_ONCE = 4  # largest bodies whose bytes a process keeps at one time


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
                app = self.app
                if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # no text of a database
                    app = error_response(400, "bad_request", "the address holds a NUL character")
                await app(scope, receive, send_with_headers)
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


class AuthenticatedBodyMiddleware:
    """Authenticate a request by its headers, count it, read its body, then call the application.

    The application finds ``principal`` in the request's state. A request that may not go on (no valid key, rate limit,
    no database) has ``refusal`` instead, the error, and no body: ``api.deps`` raises it for routes that need a key, so
    that an unknown address is still 404.
    """

    def __init__(
        self, app: ASGIApp, settings: ApiSettings, authenticator: Authenticator, rate_limiter: RateLimiter
    ) -> None:
        self.app = app
        self._authenticator, self._rate_limiter = authenticator, rate_limiter
        self._limit, self._seconds = settings.max_body_bytes, settings.body_seconds
        self._held = 0  # bytes of bodies whose requests are under way

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
            await self._call_with_body(scope, receive, send)

    async def _call_with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            complete = await self._read(scope, receive, body)
            if complete and (problem := await _json_problem(body)):
                raise Problem(422, "bad_json", problem)
            if complete:
                await self.app(scope, _replay(bytes(body), receive), send)
        except Problem as error:
            await error_response(error.status, error.code, str(error), headers=error.headers)(scope, receive, send)
        finally:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Append the request's body. False: the client disconnected before its end. Raises: Problem 408, 413 or 503."""
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large()
        with anyio.move_on_after(self._seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                chunk: bytes = message.get("body", b"")
                if len(body) + len(chunk) > self._limit:
                    raise self._too_large()
                if self._held + len(chunk) > BODIES_AT_ONCE * self._limit:
                    words = "the service holds as many bytes of requests as it keeps at once; try again in 2 s"
                    raise Problem(503, "overloaded", words, headers={"retry-after": "2"})
                body += chunk
                self._held += len(chunk)
                if not message.get("more_body"):
                    return True
        late = f"the body did not arrive within {self._seconds:g} s (LCL_BODY_SECONDS); send it faster"
        raise Problem(408, "body_timeout", late, headers={"connection": "close"})

    def _too_large(self) -> Problem:
        words = f"the body is larger than {self._limit} bytes (LCL_MAX_BODY_BYTES); send less at once"
        return Problem(413, "body_too_large", words)


async def _json_problem(body: bytearray) -> str | None:
    return await to_thread.run_sync(find_json_problem, body) if len(body) > LARGE_BODY else find_json_problem(body)


def find_json_problem(body: bytes | bytearray) -> str | None:
    """What two parsers might read differently (a name twice, NaN, huge numbers); None also for invalid JSON, which the
    application's parser reports."""
    try:
        parse_strict_json(bytes(body))
    except JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _request_id(scope: Scope) -> str:
    """The client's ``X-Request-Id`` if it is well-formed, else a new one."""
    sent = Headers(scope=scope).get("x-request-id", "")
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _route_template(scope: Scope) -> str:
    """The path with parameter names, so that ids do not become metric labels."""
    return getattr(scope.get("route"), "path", "unmatched")


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
