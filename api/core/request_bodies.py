"""Middleware that authenticates a request and reads its body.

Order: the key (from the headers alone), the key's slot in the rate limiter, then the body. The body arrives within a
deadline, and the bytes of all bodies that a process keeps are bounded. A body that JSON parsers may read differently
(duplicate names, NaN, numbers too large, nesting too deep) is refused before it is parsed.
"""

from __future__ import annotations

import re
from functools import partial
from json import JSONDecodeError

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core.auth import Authenticator
from api.core.errors import Problem, error_response
from api.core.limits import BodyBudget, BodyReservation
from api.core.rate_limit import RateLimiter, RequestSlot
from api.core.settings import ApiSettings
from lcl_core.common.strict_json import loads

AUTHENTICATED_PREFIX = "/v1/"  # every route below it needs a key; no other route reads a body
METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
MEDIA_PATHS = re.compile(r"/v1/(embeddings|captions|continuations|attention|collections/)")
LARGE_BODY = 256 * 1024  # bytes from which on the JSON check runs in a thread
MIN_BYTES_PER_SECOND = 10**6  # of a body, after ``LCL_BODY_SECONDS``
MAX_CHECKING = 2  # threads that check large bodies

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
JSON_BRACKET = re.compile(rb"[\[\]{}]")


def find_json_problem(body: bytes, max_depth: int) -> str | None:
    """Why a body must not be parsed; None: it may be."""
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
    return find_json_ambiguity(body)


def nesting_depth(body: bytes, enough: int) -> int:
    """Nesting of brackets outside strings; counting stops above ``enough``."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for bracket in JSON_BRACKET.finditer(JSON_STRING.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > enough:
            break
    return deepest


def find_json_ambiguity(body: bytes) -> str | None:
    """What two parsers might read differently; None also for invalid JSON, which the parser reports."""
    try:
        loads(body)
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
        check = partial(find_json_problem, body, self.settings.max_json_depth)
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
