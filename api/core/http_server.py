"""HTTP server: uvicorn on h11, with limits on connections and strict parsing of request heads.

h11 accepts what a proxy may parse differently (request smuggling): folded header lines, lines that end with a line feed
alone, control characters, and repeated lengths. They are refused here.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from api.core.errors import error_object
from api.core.middleware import SECURITY_HEADERS
from api.core.settings import ApiSettings

END_OF_HEAD = re.compile(rb"\n\r?\n")
LENIENT_LINE = re.compile(rb"(?<!\r)\n|\n[ \t]")  # a line feed alone; a line that goes on in the next one
CONTROL_CHARACTER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
CONTENT_LENGTH = re.compile(rb"\ncontent-length:([^\r\n]*)", re.IGNORECASE)
ERROR_CODES = {400: "bad_request", 431: "headers_too_large", 501: "not_implemented", 503: "overloaded"}


def server_config(app: ASGIApp, settings: ApiSettings, **more: Any) -> uvicorn.Config:
    """Configuration of uvicorn with ``BoundedProtocol``. ``more``: arguments of uvicorn.Config."""

    class Protocol(BoundedProtocol):
        head_seconds = settings.head_seconds
        drain_seconds = settings.body_seconds
        max_connections = settings.max_connections

    return uvicorn.Config(app, http=Protocol, ws="none", server_header=False, **more)


class StrictConnection(h11.Connection):
    """h11's parser, which refuses request heads that it would otherwise repair."""

    def next_event(self) -> Any:
        """Raises: h11.RemoteProtocolError."""
        if self.their_state is h11.IDLE:
            received = self.trailing_data[0]
            end = END_OF_HEAD.search(received)
            problem = None if end is None else _head_problem(received[: end.end()])
            if problem is not None:
                raise h11.RemoteProtocolError(problem)
        return super().next_event()


def _head_problem(head: bytes) -> str | None:
    if LENIENT_LINE.search(head):
        return "each line of a request's head ends with CR and LF, and no header goes on in the next line"
    if CONTROL_CHARACTER.search(head):
        return "a request's head holds no control characters"
    lengths = CONTENT_LENGTH.findall(head)
    if len(lengths) > 1 or (lengths and b"," in lengths[0]):
        return "the length of the body is said twice"
    return None


class BoundedProtocol(H11Protocol):
    """One connection, closed when the head of its next request is not complete in time.

    A connection beyond ``max_connections`` replaces the one that has been idle for longest, so that idle connections
    block nobody.

    Attributes:
        head_seconds: from the start of the connection, or the end of a response, to the next complete head.
        drain_seconds: the same where an unread body is still arriving after its response.
        max_connections: of the process.
    """

    head_seconds: float
    drain_seconds: float
    max_connections: int

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.conn = StrictConnection(h11.SERVER)
        self._head_deadline: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    @property
    def idle(self) -> bool:
        """No request is running."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head(self.head_seconds)
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.idle:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self.cycle.body = bytearray()  # unread input
        finished = self.cycle
        complete = self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)
        super().on_response_complete()
        if self.cycle is finished and not self.transport.is_closing():
            self._await_head(self.head_seconds if complete else self.drain_seconds)

    def send_400_response(self, msg: str) -> None:
        """Send the parser's error as an error response and close. ``msg``: uvicorn's own, less specific message."""
        error = sys.exception()
        status, words = 400, msg
        if isinstance(error, h11.RemoteProtocolError):
            status, words = error.error_status_hint, f"this is not HTTP/1.1 as it should be: {error}"
        self._refuse(status, words)

    def _refuse(self, status: int, words: str) -> None:
        if self.idle or not self.cycle.response_started:  # else a response has begun
            error = error_object(status, ERROR_CODES.get(status, "bad_request"), words[:300])
            body = json.dumps({"error": error}).encode()
            headers = {
                **SECURITY_HEADERS,
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                **({"retry-after": "5"} if status == 503 else {}),
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, STATUS_PHRASES[status], lines.encode("ascii"))
            self.transport.write(head + body)
        self.transport.close()

    def _await_head(self, seconds: float) -> None:
        self._stop_waiting()
        self._idle_since = self.loop.time()
        self._head_deadline = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _make_room(self) -> None:
        others = [other for other in self.connections if other is not self and isinstance(other, BoundedProtocol)]
        idle = [other for other in others if other.idle and not other.transport.is_closing()]
        if idle:
            min(idle, key=lambda other: other._idle_since).transport.close()
        elif sum(not other.transport.is_closing() for other in others) >= self.max_connections:
            self._refuse(503, "as many connections are open as the service takes; try again in a few seconds")
