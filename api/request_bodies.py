"""Who sends a body is known, and may send it, before the first byte of it is kept.

The order is: the key (from the headers), the key's slot in the throttle, then the body. It arrives within a deadline,
and the bytes of all bodies that a process keeps are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import anyio
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.authentication import authenticate
from api.body_budget import Reservation
from api.context import Context
from api.errors import Problem, error_response
from api.strict_json import problem_in
from api.throttle import Slot

KEYED = "/v1/"  # below it every route wants a key; no other route reads a body
BODILESS = ("GET", "HEAD", "OPTIONS")
MEDIA_PATHS = re.compile(r"/v1/(embeddings|captions|continuations|attention|collections/)")
LARGE_BODY = 256 * 1024
PACE = 10**6  # bytes a second that a body must arrive with, once its first seconds are over


class AuthenticatedBodies:
    """Authenticate a request, take its slot, read its body, and let the application answer.

    The application finds ``slot`` in the request's state. Where the request may not go on (no valid key, too many
    requests, no database) it finds ``refusal``, the error, and no body: ``api.deps`` raises it for routes that want a
    key, so that an address that is not there is still 404.

    Args:
        app: the application inside.
        context: with the settings, the keys, the throttle and the budget of bytes.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        self.settings = context.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        slot = await self._slot(scope) if scope["path"].startswith(KEYED) else None
        if slot is None:
            await self.app(scope, _replay(b"", receive), send)
            return
        with slot:
            if scope["method"] in BODILESS:
                await self.app(scope, receive, send)
                return
            with self.context.bodies.of(slot.caller.prefix) as reservation:
                await self._answer_with_body(scope, receive, send, reservation)

    async def _slot(self, scope: Scope) -> Slot | None:
        state = scope.setdefault("state", {})
        try:
            caller = await authenticate(self.context, Headers(scope=scope).get("authorization"))
            slot = state["slot"] = self.context.throttle.enter(caller)
            return slot
        except Exception as error:  # raised again where errors have their form
            state["refusal"] = error
            return None

    async def _answer_with_body(self, scope: Scope, receive: Receive, send: Send, reservation: Reservation) -> None:
        try:
            body = await self._body(scope, receive, reservation)
        except Problem as error:
            await error_response(error.status, error.code, str(error), headers=error.headers)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive, reservation: Reservation) -> bytes | None:
        """The whole body, free of what parsers read differently; None: the sender left before its end.

        Raises: Problem 408, 413, 422 or 503.
        """
        media = MEDIA_PATHS.match(scope["path"])
        limit = self.settings.max_media_body_bytes if media else self.settings.max_body_bytes
        await reservation.grow_to(_announced(Headers(scope=scope), limit))
        with anyio.move_on_after(self.settings.body_seconds) as deadline:
            body = await _read(receive, limit, reservation, deadline)
        if deadline.cancelled_caught:
            message = f"the body did not arrive within {self.settings.body_seconds:g} s and a second for each megabyte"
            raise Problem(408, "body_timeout", f"{message}; send it faster", headers={"connection": "close"})
        if body is None:
            return None
        check: Callable[[], str | None] = lambda: problem_in(body, self.settings.max_json_depth)  # noqa: E731
        large = len(body) > LARGE_BODY  # images: reading them would hold everybody else up
        problem = await to_thread.run_sync(check, limiter=self.context.checking) if large else check()
        if problem:
            raise Problem(422, "bad_json", problem)
        return body


async def _read(
    receive: Receive, limit: int, reservation: Reservation, deadline: anyio.CancelScope
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
        deadline.deadline += len(chunk) / PACE


def _announced(headers: Headers, limit: int) -> int:
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
