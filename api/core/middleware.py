"""Middleware around every request: request id, security headers, latency, error responses, header checks, body.

``AuthenticatedBodyMiddleware`` checks the key (from the headers alone), takes a slot of the rate limiter, then
reads the body. The body arrives within a deadline, and the bytes of all bodies that a process keeps are bounded. A body
that JSON parsers may read differently (duplicate names, NaN, numbers too large, nesting too deep), or that has too many
values, is refused before it is parsed.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError
from pathlib import Path

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.auth import Authenticator
from api.core.errors import Problem, error_response, fault_response
from api.core.limits import BodyBudget, BodyReservation, RateLimiter, RequestSlot
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


AUTHENTICATED_PREFIX = "/v1/"  # every route below it needs a key; no other route reads a body
METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
MEDIA_PATHS = re.compile(r"/v1/(embeddings|captions|continuations|attention|collections/)")
LARGE_BODY = 256 * 1024  # bytes from which on the JSON check runs in a thread
MIN_BYTES_PER_SECOND = 10**6  # of a body, after ``LCL_BODY_SECONDS``
MAX_CHECKING = 2  # threads that check large bodies

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Possessive: a string without its end takes as many steps as it has bytes, not the square of them.
JSON_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
JSON_TOKEN = re.compile(rb"%b|[\[\]{},]" % JSON_STRING, re.DOTALL)
JSON_BRACKET = re.compile(rb"%b|[\[\]{}]" % JSON_STRING, re.DOTALL)
QUOTE, OPENINGS = b'"'[0], b"[{"


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """Of a body: each value may become an error with a location of its own.

    Attributes:
        values: members of all objects and items of all lists.
        members: of one object.
    """

    values: int
    members: int


# As many as 256 images with 32 labels of 32 values each; the largest object has a field for each of a request's.
MEDIA_JSON = JsonLimits(300_000, 256)
# A study of 1,000 variants, or names of the 22,000 classes of ImageNet.
OTHER_JSON = JsonLimits(100_000, 30_000)


def find_json_problem(body: bytes, max_depth: int, limits: JsonLimits = OTHER_JSON) -> str | None:
    """Why a body must not be parsed; None: it may be."""
    if count_values(body, limits.values) > limits.values:
        return f"the body holds more than {limits.values:,} values; send less at once"
    if nesting_depth(body, max_depth) > max_depth:
        return f"the body is nested deeper than {max_depth} levels"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8 at byte {error.start}"
    if body.startswith(BYTE_ORDER_MARK):
        return "the body begins with a byte order mark; send it without"
    if b"\0" in body:  # UTF-16 and UTF-32 also end here
        return "the body holds a NUL byte"
    return find_json_ambiguity(body, limits.members)


def count_values(body: bytes, enough: int) -> int:
    """Commas and opening brackets outside strings, at least the number of values beside the outermost.

    Counting stops above ``enough``, and where there are more strings than so many values can be.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= enough and body.count(b'"') <= 2 * enough:
        return 0
    values = strings = 0
    for token in JSON_TOKEN.finditer(body):
        mark = body[token.start()]
        if mark == QUOTE:
            strings += 1
        elif mark not in b"]}":
            values += 1
        if values > enough or strings > 2 * enough + 1:  # a name and a text for each value
            return enough + 1
    return values


def nesting_depth(body: bytes, enough: int) -> int:
    """Nesting of brackets outside strings; counting stops above ``enough``, and where more are closed than opened."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for bracket in JSON_BRACKET.finditer(body):
        mark = body[bracket.start()]
        if mark == QUOTE:
            continue
        depth += 1 if mark in OPENINGS else -1
        deepest = max(deepest, depth)
        if deepest > enough or depth < 0:
            break
    return deepest


def find_json_ambiguity(body: bytes, max_members: int | None = None) -> str | None:
    """What two parsers might read differently, or an object of more members than ``max_members``; None also for invalid
    JSON, which the parser reports."""
    try:
        parse_strict_json(body, max_members=max_members)
    except JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


class AuthenticatedBodyMiddleware:
    """Authenticate a request, acquire its slot, read its body, then call the application.

    The application finds ``slot`` in the request's state. A request that may not go on (no valid key, rate limit, no
    database) has ``refusal`` instead, the error, and no body: ``api.deps`` raises it for routes that need a key, so
    that an unknown address is still 404.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ApiSettings,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        bodies: BodyBudget,
    ) -> None:
        self.app = app
        self.settings = settings
        self._authenticator, self._rate_limiter, self._bodies = authenticator, rate_limiter, bodies
        self._checking = CapacityLimiter(MAX_CHECKING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        slot = await self._acquire_slot(scope) if scope["path"].startswith(AUTHENTICATED_PREFIX) else None
        if slot is None:
            await self.app(scope, _replay(b"", receive), send)
            return
        with slot:
            if scope["method"] in METHODS_WITHOUT_BODY:
                await self.app(scope, receive, send)
                return
            with self._bodies.reservation_for(slot.principal.prefix) as reservation:
                await self._call_with_body(scope, receive, send, reservation)

    async def _acquire_slot(self, scope: Scope) -> RequestSlot | None:
        state = scope.setdefault("state", {})
        try:
            principal = await self._authenticator.authenticate(Headers(scope=scope).get("authorization"))
            slot = state["slot"] = self._rate_limiter.acquire(principal)
            return slot
        except Exception as error:  # raised again inside the application's error handlers
            state["refusal"] = error
            return None

    async def _call_with_body(self, scope: Scope, receive: Receive, send: Send, reservation: BodyReservation) -> None:
        try:
            body = await self._body(scope, receive, reservation)
        except Problem as error:
            await error_response(error.status, error.code, str(error), headers=error.headers)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive, reservation: BodyReservation) -> bytes | None:
        """The checked body; None: the client disconnected before its end.

        Raises: Problem 408, 413, 415, 422 or 503.
        """
        media = MEDIA_PATHS.match(scope["path"])
        limit = self.settings.max_media_body_bytes if media else self.settings.max_body_bytes
        await reservation.grow_to(_content_length(Headers(scope=scope), limit))
        with anyio.move_on_after(self.settings.body_seconds) as deadline:
            body = await _read_body(receive, limit, reservation, deadline)
        if deadline.cancelled_caught:
            message = f"the body did not arrive within {self.settings.body_seconds:g} s and a second for each megabyte"
            raise Problem(408, "body_timeout", f"{message}; send it faster", headers={"connection": "close"})
        if body is None:
            return None
        limits = MEDIA_JSON if media else OTHER_JSON
        check = partial(find_json_problem, body, self.settings.max_json_depth, limits)
        problem = await to_thread.run_sync(check, limiter=self._checking) if len(body) > LARGE_BODY else check()
        if problem:
            raise Problem(422, "bad_json", problem)
        return body


async def _read_body(
    receive: Receive, limit: int, reservation: BodyReservation, deadline: anyio.CancelScope
) -> bytes | None:
    """The body, or None after a disconnect; each received byte extends the deadline. Raises: Problem 413 or 503."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        await reservation.grow_to(len(body) + len(chunk))
        if not body and not message.get("more_body"):
            return chunk
        body += chunk
        if not message.get("more_body"):
            return bytes(body)
        deadline.deadline += len(chunk) / MIN_BYTES_PER_SECOND


def _content_length(headers: Headers, limit: int) -> int:
    """Announced bytes of the body, 0 if unknown. Raises: Problem 413 or 415."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        message = f"send the body as it is, not with Content-Encoding: {headers['content-encoding'][:40]}"
        raise Problem(415, "unsupported_media_type", message)
    announced = headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    if size > limit:
        raise _too_large(limit)
    return size


def _too_large(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"the body is larger than {limit} bytes; send less at once")


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
