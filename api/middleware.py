"""What surrounds every request: its id, headers, time, the last net under errors, and bounds on what comes in.

Plain ASGI classes: Starlette's function middleware would buffer streams.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import structlog
from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.strict_json import ambiguity_in

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
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
MAX_HEADER_BYTES = 32 * 1024
LARGE_BODY = 256 * 1024
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
BRACKET = re.compile(rb"[\[\]{}]")


class Envelope:
    """Request id, security headers, latency, and 500 without a traceback.

    Args:
        app: the application inside.
        observe: called with (method, route template, status, seconds) after each request.
    """

    def __init__(self, app: ASGIApp, observe: Observer) -> None:
        self.app = app
        self.observe = observe

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
            except Exception:  # the process boundary: logged in full, told in one line
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:  # half an answer is out: only a broken connection tells the client
                    raise
                await _internal_error(request_id)(scope, receive, send_with_headers)
            finally:
                self._tell(scope, status, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """One figure and one line a request. The line has no query: what people search for is theirs."""
        route = _route(scope)
        self.observe(scope["method"], route, status, seconds)
        facts = {"run": scope["path_params"]["run_id"]} if "run_id" in scope.get("path_params", {}) else {}
        if route not in QUIET:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(seconds, 4),
                **facts,
            )


class Guard:
    """Refuse headers that are too large, and bodies that are too large, too deep or mean two things to two parsers.

    Args:
        app: the application inside.
        limit_of: largest body in bytes for a request path.
        max_depth: deepest nesting of JSON.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int], max_depth: int) -> None:
        self.app = app
        self.limit_of = limit_of
        self.max_depth = max_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            await error_response(400, "bad_request", "the address holds a NUL character")(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            message = f"the headers are larger than {MAX_HEADER_BYTES} bytes"
            await error_response(431, "headers_too_large", message)(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:  # two parsers in a row would part requests differently
            await error_response(400, "bad_request", "send a length or chunks, not both")(scope, receive, send)
            return
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        if b"authorization" not in names:  # a stranger will be told so; what he sends is not kept for that
            await self.app(scope, _replay(b"", receive), send)
            return
        limit = self.limit_of(scope["path"])
        body = await _read(scope, receive, limit)
        if body is None:
            refusal = error_response(413, "body_too_large", f"the body is larger than {limit} bytes; send less at once")
            await refusal(scope, receive, send)
            return
        large = len(body) > LARGE_BODY  # pictures: reading them would hold everybody else up
        problem = await to_thread.run_sync(self._problem, body) if large else self._problem(body)
        if problem:
            await error_response(422, "bad_json", problem)(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def _problem(self, body: bytes) -> str | None:
        if depth_of(body, self.max_depth) > self.max_depth:
            return f"the body is nested deeper than {self.max_depth} levels"
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"the body is not UTF-8 at byte {error.start}"
        if b"\0" in body:  # UTF-16 and UTF-32 also end here
            return "the body holds a NUL byte"
        return ambiguity_in(body)


def depth_of(body: bytes, enough: int) -> int:
    """Nesting of brackets outside strings; counting stops above ``enough``."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for bracket in BRACKET.finditer(STRING.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > enough:
            break
    return deepest


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when it is larger than ``limit`` bytes."""
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        return None
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return bytes(body)


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


def _request_id(scope: Scope) -> str:
    """The caller's ``X-Request-Id`` when it is harmless, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _internal_error(request_id: str) -> ASGIApp:
    message = f"something broke inside the service; its log tells more under request id {request_id}"
    return error_response(500, "internal_error", message)


def _route(scope: Scope) -> str:
    """The route's template, so that ids do not become metric labels."""
    return getattr(scope.get("route"), "path", "unmatched")
