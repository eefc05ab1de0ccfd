"""Sessions of the page's users, and the API key with which each call to the service is made.

Sessions live in this process. A browser never holds an API key; sign-out ends a session for good; a restart asks
every user to sign in again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx

from api.client import ApiError

MAX_SESSIONS_PER_KEY = 100
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class UserSession:
    """Of somebody who has signed in. ``key``: of the service, empty on one machine; ``expires_at``: by the store."""

    token: str = field(repr=False)
    key: str = field(repr=False)
    owner: str
    role: str
    expires_at: float

    @property
    def names(self) -> tuple[str, str]:
        """Of the key and of the session, as hashes."""
        return _hash(self.key), _hash(self.token)

    def name_of(self, name: Any) -> str:
        """``KEY-SESSION-NAME``: what a browser has named, such as an open page. Raises: ApiError."""
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise ApiError(422, "name_malformed", "The page could not read what was sent. Reload it, then try again.")
        return "-".join((*self.names, name))


# of the request that is being handled, in all of its threads; None: nobody has signed in
current_session: ContextVar[UserSession | None] = ContextVar("lcl_session", default=None)


def own_session() -> UserSession:
    """The session of a request that ``ui.auth.AuthMiddleware`` has let pass."""
    session = current_session.get()
    if session is None:
        raise ApiError(401, "unauthorized", "Sign in on the page first.")
    return session


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
        self.on_end: list[Callable[[UserSession], None]] = []  # called with each session that has ended
        self._open: dict[str, UserSession] = {}  # by token, oldest first
        self._lock = threading.Lock()

    def open(self, key: str, owner: str, role: str) -> str:
        """Start a session. Returns: its token, for the browser's cookie."""
        self.close_expired()
        session = UserSession(secrets.token_urlsafe(32), key, owner, role, self.clock() + self.seconds)
        with self._lock:
            self._open[session.token] = session
            own = [each.token for each in self._open.values() if each.key == key]
        for token in own[: -self.limit_per_key]:
            self.close(token)
        return session.token

    def find(self, token: str | None) -> UserSession | None:
        session = self._open.get(token or "")
        return session if session and session.expires_at > self.clock() else None

    def close(self, token: str | None) -> None:
        """End a session; an unknown token is ignored."""
        self._close_if(lambda session: session.token == token)

    def close_key(self, key: str) -> None:
        """End every session of a key that the service rejects."""
        self._close_if(lambda session: session.key == key)

    def close_expired(self) -> None:
        now = self.clock()
        self._close_if(lambda session: session.expires_at <= now)

    def _close_if(self, ended: Callable[[UserSession], bool]) -> None:
        with self._lock:
            closed = [session for session in self._open.values() if ended(session)]
            for session in closed:
                del self._open[session.token]
        for session in closed:
            for callback in self.on_end:
                callback(session)


class SessionKeyAuth(httpx.Auth):
    """Sends the key of the user whose event or request causes the call; no key without a user."""

    def __init__(self, sessions: SessionStore) -> None:
        self.sessions = sessions

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        session = current_session.get()
        if session is not None:
            request.headers["authorization"] = f"Bearer {session.key}"
        response = yield request
        if session is not None and response.status_code == httpx.codes.UNAUTHORIZED:  # revoked or expired since
            self.sessions.close_key(session.key)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
