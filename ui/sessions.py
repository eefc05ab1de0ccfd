"""Sessions of the page's users, and the API key with which each call to the service is made.

Sessions live in this process. A browser never holds an API key; sign-out ends a session for good; a restart asks
every user to sign in again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx
from gradio.context import LocalContext

MAX_SESSIONS_PER_KEY = 100
SESSION_SCOPE_KEY = "lcl.session"  # of the ASGI scope, for the token of the session

_key: ContextVar[str | None] = ContextVar("lcl_key", default=None)


@dataclass(frozen=True)
class UserSession:
    """A user who signed in with a key of the service. ``expires_at``: by the clock of the store."""

    key: str = field(repr=False)
    owner: str
    role: str
    expires_at: float


class SessionStore:
    """The open sessions. Safe to share between threads.

    Args:
        seconds: lifetime of a session, active or not.
        limit_per_key: sessions of one key; above it the oldest session of that key ends.
    """

    def __init__(
        self,
        seconds: float,
        limit_per_key: int = MAX_SESSIONS_PER_KEY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.limit_per_key = limit_per_key
        self.clock = clock
        self.on_end: list[Callable[[str], None]] = []  # called with the token of each session that has ended
        self._open: dict[str, UserSession] = {}  # oldest first
        self._lock = threading.Lock()

    def open(self, key: str, owner: str, role: str) -> str:
        """Start a session. Returns: its token, for the browser's cookie."""
        self.close_expired()
        token = secrets.token_urlsafe(32)
        with self._lock:
            own = [other for other, session in self._open.items() if session.key == key]
            evicted = own[: max(0, len(own) - self.limit_per_key + 1)]
            for other in evicted:
                del self._open[other]
            self._open[token] = UserSession(key, owner, role, self.clock() + self.seconds)
        self._notify(evicted)
        return token

    def find(self, token: str | None) -> UserSession | None:
        session = self._open.get(token or "")
        return session if session and session.expires_at > self.clock() else None

    def current(self) -> UserSession | None:
        """The session whose Gradio event is being handled; None outside of events."""
        event = LocalContext.request.get(None)
        if event is None or event.request is None:
            return None
        return self.find(event.request.scope.get(SESSION_SCOPE_KEY))

    def close(self, token: str | None) -> None:
        """End a session; an unknown token is ignored."""
        self._close_if(lambda other, _: other == token)

    def close_key(self, key: str) -> None:
        """End every session of a key that the service rejects."""
        self._close_if(lambda _, session: session.key == key)

    def close_expired(self) -> None:
        now = self.clock()
        self._close_if(lambda _, session: session.expires_at <= now)

    def _close_if(self, ended: Callable[[str, UserSession], bool]) -> None:
        with self._lock:
            tokens = [token for token, session in self._open.items() if ended(token, session)]
            for token in tokens:
                del self._open[token]
        self._notify(tokens)

    def _notify(self, tokens: list[str]) -> None:
        for token in tokens:
            for callback in self.on_end:
                callback(token)


class SessionKeyAuth(httpx.Auth):
    """Sends the key of the user whose Gradio event or request causes the call; no key without a user.

    Gradio handles events on other threads than their request, and passes the request along (``SessionStore.current``).
    Routes beside the page set the key with ``use_key``.
    """

    def __init__(self, sessions: SessionStore) -> None:
        self.sessions = sessions

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        session = self.sessions.current()
        key = session.key if session else _key.get()
        if key:
            request.headers["authorization"] = f"Bearer {key}"
        response = yield request
        if key and response.status_code == httpx.codes.UNAUTHORIZED:  # revoked or expired since
            self.sessions.close_key(key)


def use_key(key: str | None) -> None:
    """Send ``key`` with all further calls of this request."""
    _key.set(key)


def current_key() -> str:
    """The key of this request; empty on one machine."""
    return _key.get() or ""
