"""Middleware that authenticates a request and reads its body.

Order: the key (from the headers alone), the key's slot in the rate limiter, then the body. The body arrives within a
deadline, and the bytes of all bodies that a process keeps are bounded. A body that JSON parsers may read differently
(duplicate names, NaN, numbers too large, nesting too deep) is refused before it is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecodeError

import anyio
import structlog
from anyio import to_thread
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.core import auth
from api.core.auth import Principal
from api.core.errors import Problem, error_response
from api.core.limits import BodyReservation
from api.core.rate_limit import RequestSlot
from api.core.state import AppState
from lcl_core.common.strict_json import loads
from lcl_core.db.models import ApiKey

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
JSON_BRACKET = re.compile(rb"[\[\]{}]")


def find_json_problem(body: bytes, max_depth: int) -> str | None:
    """What is wrong with a request body before anybody parses it, in words; None for one that may be parsed."""
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
    """What two parsers might read differently in a UTF-8 body, in words.

    None for a body that is plain, and for one that is no JSON at all: whoever parses it says where it breaks.
    """
    try:
        loads(body)
    except JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


log = structlog.get_logger(__name__)

CHALLENGE = {"www-authenticate": "Bearer"}


async def authenticate(context: AppState, authorization: str | None) -> Principal:
    """The caller whom the value of an ``Authorization`` header names.

    A key that was valid within the last second costs no look into the database; any other costs one, in one of few
    threads, so that strangers with made-up keys do not take those of the requests.

    Raises: Problem 401; SQLAlchemyError when the database does not answer.
    """
    scheme, key = get_authorization_scheme_param(authorization)
    if scheme.lower() != "bearer" or not key:
        raise Problem(
            401,
            "unauthorized",
            "send an API key: `Authorization: Bearer KEY`; the embedded default keeps one in "
            "the file `key` of its home folder",
            headers=CHALLENGE,
        )
    if known := context.principals.get(key, auth.utc_now()):
        return known
    return await to_thread.run_sync(_authenticate_from_database, context, key, limiter=context.authenticating)


def _authenticate_from_database(context: AppState, key: str) -> Principal:
    changes = context.principals.version
    with context.database.reading() as session:
        row = auth.verify_key(session, key, context.configured_key)
    if row is None:
        raise Problem(401, "unauthorized", "the API key is unknown, revoked or expired", headers=CHALLENGE)
    if auth.last_used_is_stale(row):
        _record_use(context, row.prefix)
    caller = Principal(row.owner, row.role, row.prefix)
    context.principals.put(key, caller, changes, auth.cache_valid_until(row))
    return caller


def _record_use(context: AppState, prefix: str) -> None:
    """Note the use of a key. A database that takes no writes, such as on a full disk, still answers questions."""
    try:
        with context.database.session() as session:
            row = session.get(ApiKey, prefix)
            if row is not None:
                auth.update_last_used(row)
    except SQLAlchemyError as error:
        log.warning("the last use of a key was not noted", prefix=prefix, error=str(error).splitlines()[0])


AUTHENTICATED_PREFIX = "/v1/"  # below it every route wants a key; no other route reads a body
METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
MEDIA_PATHS = re.compile(r"/v1/(embeddings|captions|continuations|attention|collections/)")
LARGE_BODY = 256 * 1024
MIN_BYTES_PER_SECOND = 10**6  # bytes a second that a body must arrive with, once its first seconds are over


class AuthenticatedBodyMiddleware:
    """Authenticate a request, take its slot, read its body, and let the application answer.

    The application finds ``slot`` in the request's state. Where the request may not go on (no valid key, too many
    requests, no database) it finds ``refusal``, the error, and no body: ``api.deps`` raises it for routes that want a
    key, so that an address that is not there is still 404.

    Args:
        app: the application inside.
        context: with the settings, the keys, the throttle and the budget of bytes.
    """

    def __init__(self, app: ASGIApp, context: AppState) -> None:
        self.app = app
        self.context = context
        self.settings = context.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        slot = await self._slot(scope) if scope["path"].startswith(AUTHENTICATED_PREFIX) else None
        if slot is None:
            await self.app(scope, _replay(b"", receive), send)
            return
        with slot:
            if scope["method"] in METHODS_WITHOUT_BODY:
                await self.app(scope, receive, send)
                return
            with self.context.bodies.reservation_for(slot.principal.prefix) as reservation:
                await self._answer_with_body(scope, receive, send, reservation)

    async def _slot(self, scope: Scope) -> RequestSlot | None:
        state = scope.setdefault("state", {})
        try:
            caller = await authenticate(self.context, Headers(scope=scope).get("authorization"))
            slot = state["slot"] = self.context.rate_limiter.acquire(caller)
            return slot
        except Exception as error:  # raised again where errors have their form
            state["refusal"] = error
            return None

    async def _answer_with_body(self, scope: Scope, receive: Receive, send: Send, reservation: BodyReservation) -> None:
        try:
            body = await self._body(scope, receive, reservation)
        except Problem as error:
            await error_response(error.status, error.code, str(error), headers=error.headers)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive, reservation: BodyReservation) -> bytes | None:
        """The whole body, free of what parsers read differently; None: the sender left before its end.

        Raises: Problem 408, 413, 422 or 503.
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
        check: Callable[[], str | None] = lambda: find_json_problem(body, self.settings.max_json_depth)  # noqa: E731
        large = len(body) > LARGE_BODY  # images: reading them would hold everybody else up
        problem = await to_thread.run_sync(check, limiter=self.context.checking) if large else check()
        if problem:
            raise Problem(422, "bad_json", problem)
        return body


async def _read_body(
    receive: Receive, limit: int, reservation: BodyReservation, deadline: anyio.CancelScope
) -> bytes | None:
    """The whole body, or None when its sender left; each byte that arrives moves the deadline. Raises: Problem."""
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
    """Bytes of the body by its own headers; 0 when they do not say. Raises: Problem 413 or 415."""
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
    """A ``receive`` that hands out ``body`` once, then what really follows (the disconnect)."""
    handed_out = False

    async def replay() -> Message:
        nonlocal handed_out
        if handed_out:
            return await receive()
        handed_out = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
