"""Nobody passes without a session, but to open one and for the health check."""

from __future__ import annotations

import re
from typing import Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.visitors import TOKEN, Visitors

COOKIE = "lcl_session"
OPEN = ("/healthz", "/signed-in")
SIGN_IN = {"x-lcl-sign-in": "1"}  # by which the page's script knows that its session has ended
PORT = re.compile(r":([0-9]{1,5})$", re.ASCII)


class Entry(Protocol):
    """How one comes by a session. ``open_to_all``: paths that lead there."""

    open_to_all: tuple[str, ...]

    def answer(self, request: Request) -> Response:
        """To whoever asks for something without one."""
        ...

    def welcome(self, request: Request) -> Response | None:
        """To whoever asks for the page with one: None lets the page answer."""
        ...


class Gate:
    """Lets requests with a session through, and leaves the others to ``entry``.

    Plain ASGI. Leaves the session's token in the scope, where events find whose they are.
    """

    def __init__(self, app: ASGIApp, visitors: Visitors, entry: Entry) -> None:
        self.app = app
        self.visitors = visitors
        self.entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in (*OPEN, *self.entry.open_to_all):
            await self.app(scope, receive, send)
            return
        token = session_token(HTTPConnection(scope))
        if self.visitors.find(token):
            answer = self.entry.welcome(Request(scope)) if is_opening(scope) else None
            await (answer or self.app)({**scope, TOKEN: token}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.entry.answer(Request(scope))(scope, receive, send)


class SignIn:
    """In a team: whoever opens the page is sent to ``login``, with what the address asked for."""

    open_to_all: tuple[str, ...] = ("/login",)

    def answer(self, request: Request) -> Response:
        if is_opening(request.scope):
            return RedirectResponse(with_query("login", request.scope), 303, headers={"cache-control": "no-store"})
        return PlainTextResponse("sign in first", 401, headers=SIGN_IN)

    def welcome(self, request: Request) -> Response | None:
        return None


def is_opening(scope: Scope) -> bool:
    """Whether somebody opens the page itself."""
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"


def cookie_name(request: HTTPConnection) -> str:
    """Where TLS is spoken a name that browsers accept from this very host alone; else one for each port, because
    pages on other ports of the host share its cookies."""
    if request.url.scheme in ("https", "wss"):
        return f"__Host-{COOKIE}"
    port = PORT.search(request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


def session_token(request: HTTPConnection) -> str | None:
    """What the browser says that its session is."""
    return request.cookies.get(cookie_name(request))


def set_session(answer: Response, request: HTTPConnection, token: str, seconds: int) -> None:
    """No script reads the cookie, no other site sends it, and where TLS was spoken it is never sent without."""
    secure = request.url.scheme == "https"
    name = cookie_name(request)
    answer.set_cookie(name, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def with_query(path: str, scope: Scope) -> str:
    """``path``, which is relative to wherever the page is served, with the query of the request."""
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path
