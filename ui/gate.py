"""The door of a team's page: nobody passes without a session, but for signing in and the health check."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.visitors import TOKEN, Visitors

COOKIE = "lcl_session"
OPEN = ("/healthz", "/login", "/signed-in")
SIGN_IN = {"x-lcl-sign-in": "1"}  # by which the page's script knows that its session has ended


class Gate:
    """Sends who opens the page to ``login``, with what the address asked for; refuses everything else with 401.

    Plain ASGI. Leaves the session's token in the scope, where events find whose they are.
    """

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self.app = app
        self.visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        token = HTTPConnection(scope).cookies.get(COOKIE)
        if self.visitors.find(token):
            await self.app({**scope, TOKEN: token}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _turned_away(scope)(scope, receive, send)


def _turned_away(scope: Scope) -> Response:
    if scope["method"] in ("GET", "HEAD") and scope["path"] == "/":
        return RedirectResponse(with_query("login", scope), 303, headers={"cache-control": "no-store"})
    return PlainTextResponse("sign in first", 401, headers=SIGN_IN)


def with_query(path: str, scope: Scope) -> str:
    """``path``, which is relative to wherever the page is served, with the query of the request."""
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path
