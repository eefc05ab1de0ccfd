"""Sessions of the page's users, and the API key with which each call to the service is made.

Sessions live in this process. A browser never holds an API key; sign-out ends a session for good; a restart asks
every user to sign in again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx
from gradio.context import LocalContext

MAX_SESSIONS = 10_000  # sessions; the oldest of the key with the most of them gives way
MAX_SESSIONS_PER_KEY = 100  # sessions of one key; its own oldest gives way
SESSION_SCOPE_KEY = "lcl.session"

_key: ContextVar[str | None] = ContextVar("lcl_key", default=None)


@dataclass(frozen=True)
class UserSession:
    """Somebody who came with a key of the service; ``until`` is a moment of the sessions' clock."""

    key: str = field(repr=False)
    owner: str
    role: str
    until: float


class SessionStore:
    """The open sessions. Safe to share between threads.

    Args:
        seconds: after which a session ends, however busy it is.
        most: sessions kept at a time.
        most_of_key: sessions of one key kept at a time, so that one key cannot push out the others.
    """

    def __init__(
        self,
        seconds: float,
        most: int = MAX_SESSIONS,
        most_of_key: int = MAX_SESSIONS_PER_KEY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.most = most
        self.most_of_key = most_of_key
        self.clock = clock
        self.on_end: list[Callable[[str], None]] = []  # called with the token of each session that has ended
        self._open: dict[str, UserSession] = {}  # in the order of their end
        self._lock = threading.Lock()

    def enter(self, key: str, owner: str, role: str) -> str:
        """Open a session. Returns: its token, which the browser keeps."""
        self.sweep()
        token = secrets.token_urlsafe(32)
        with self._lock:
            gone = self._giving_way(key)
            for other in gone:
                del self._open[other]
            self._open[token] = UserSession(key, owner, role, self.clock() + self.seconds)
        self._tell(gone)
        return token

    def find(self, token: str | None) -> UserSession | None:
        """Whose session that is, unless it has ended."""
        visitor = self._open.get(token or "")
        return visitor if visitor and visitor.until > self.clock() else None

    def leave(self, token: str | None) -> None:
        """End a session; one that is not there has ended already."""
        self._end(lambda other, _: other == token)

    def turn_out(self, key: str) -> None:
        """End every session of a key that the service refuses."""
        self._end(lambda _, visitor: visitor.key == key)

    def sweep(self) -> None:
        """Forget the sessions whose time is over."""
        now = self.clock()
        self._end(lambda _, visitor: visitor.until <= now)

    def _giving_way(self, key: str) -> list[str]:
        """Sessions that end so that one more of this key may open. The lock is held."""
        own = [token for token, visitor in self._open.items() if visitor.key == key]
        if len(own) >= self.most_of_key:
            return own[: len(own) - self.most_of_key + 1]
        if len(self._open) < self.most:
            return []
        fullest = Counter(visitor.key for visitor in self._open.values()).most_common(1)[0][0]
        return [next(token for token, visitor in self._open.items() if visitor.key == fullest)]

    def _end(self, is_over: Callable[[str, UserSession], bool]) -> None:
        with self._lock:
            gone = [token for token, visitor in self._open.items() if is_over(token, visitor)]
            for token in gone:
                del self._open[token]
        self._tell(gone)

    def _tell(self, gone: list[str]) -> None:
        for token in gone:
            for told in self.on_end:
                told(token)

    def present(self) -> UserSession | None:
        """Whose event of the page is being worked on; None outside of events."""
        event = LocalContext.request.get(None)
        return (
            self.find(event.request.scope.get(SESSION_SCOPE_KEY))
            if event is not None and event.request is not None
            else None
        )


class SessionKeyAuth(httpx.Auth):
    """Gives each call the key of the visitor whose event or request it serves; without one, none.

    Events run on threads of Gradio's, far from the request that asked for them, and bring that request along;
    the page's own routes say who acts by ``act_with``.
    """

    def __init__(self, visitors: SessionStore) -> None:
        self.visitors = visitors

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        visitor = self.visitors.present()
        key = visitor.key if visitor else _key.get()
        if key:
            request.headers["authorization"] = f"Bearer {key}"
        response = yield request
        if key and response.status_code == httpx.codes.UNAUTHORIZED:  # revoked or expired meanwhile
            self.visitors.turn_out(key)


def use_key(key: str | None) -> None:
    """Whatever this request still asks of the service is asked with ``key``."""
    _key.set(key)
