"""Signing in: with an API key (team), or with the access token (one machine); middleware and routes.

On one machine the token keeps other users of the machine, who can reach its ports, from acting with the service's key.
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.client import ApiError, Client
from ui.html import LOGO_SVG, TAGLINE, esc
from ui.security import read_body
from ui.sessions import SessionStore, UserSession, current_session
from ui.settings import TOKEN_FILE

COOKIE = "lcl_session"
PUBLIC_PATHS = ("/healthz", "/login")
SIGN_IN_HEADERS = {"x-lcl-sign-in": "1"}  # tells page.js that the session has ended
NO_STORE = {"cache-control": "no-store"}
PORT_PATTERN = re.compile(r":([0-9]{1,5})$", re.ASCII)
TOKEN_PARAMETER = "token"  # noqa: S105 - name of the query parameter
TOKEN_SESSION_SECONDS = 30 * 86_400.0
MAX_FORM_BYTES, FORM_SECONDS = 4096, 10.0
KEY_PATTERN = re.compile(r"[!-~]+", re.ASCII)  # characters of a header value
KEY_UNKNOWN = "This key is not valid: it is unknown, revoked or expired."

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · LCL</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body class="lcl-login"><main>
<header class="lcl-header">{logo}<div><h1>LCL</h1><p>{tagline}</p></div></header>
<form method="post" action="{action}">
<label for="key">{label}</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" autocapitalize="none"
 required maxlength="512" autofocus aria-describedby="hint problem"{invalid}>
<p class="lcl-problem" id="problem" role="alert"{hidden}>{problem}</p><button>Sign in</button>
<p class="lcl-note" id="hint">{hint}</p>
</form></main><script>
const dark = (() => {{ try {{ return localStorage.getItem('lcl-theme'); }} catch {{ return null; }} }})();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
</script></body></html>"""
LABELS_AND_HINTS = {
    "key": (
        "API key",
        "Runs are shown to the owner of their key. An admin makes one with <code>lcl keys create NAME</code>.",
    ),
    "token": (
        "Token",
        "<code>make up</code> and <code>make demo</code> print the address that opens the page; it ends with "
        f"<code>/?token=…</code>. The token is in the file <code>{TOKEN_FILE}</code> of the service's folder: after "
        f"<code>make up</code>, <code>cat .lcl/{TOKEN_FILE}</code> shows it.",
    ),
}


class SignIn:
    """Opens sessions of whoever has an API key; with a ``token``, of whoever has this (any user where it is empty)."""

    def __init__(self, client: Client, sessions: SessionStore, token: str | None) -> None:
        self.client = client
        self.sessions = sessions
        self.token = token

    def open(self, secret: str) -> str:
        """The token of a new session. Raises: ApiError."""
        if self.token is not None:
            if self.token and not hmac.compare_digest(secret.encode(), self.token.encode()):
                raise ApiError(401, "unauthorized", "This is not the token of the service. Copy it again.")
            return self.sessions.open("", "", "")
        if not secret:
            raise ApiError(422, "key_missing", "Enter your API key.")
        if not KEY_PATTERN.fullmatch(secret):
            raise ApiError(401, "unauthorized", KEY_UNKNOWN)
        current_session.set(UserSession("", secret, "", "", 0))
        try:
            own = self.client.own_key()
        except ApiError as error:
            if error.status == 401:
                raise ApiError(401, error.code, KEY_UNKNOWN) from error
            if error.status == 429:
                message = "Too many requests with this key. Wait a little and try again."
                raise ApiError(429, error.code, message) from error
            raise ApiError(503, error.code, f"The service did not answer: {error.message}") from error
        return self.sessions.open(secret, own["owner"], own["role"])

    def draw_form(self, request: Request, error: ApiError | None = None) -> HTMLResponse:
        label, hint = LABELS_AND_HINTS["key" if self.token is None else "token"]
        page = PAGE.format(
            style=STYLE, logo=LOGO_SVG, tagline=esc(TAGLINE), action=esc("login" + _query_without_token(request)),
            label=label, hint=hint, problem=esc(error or ""), hidden="" if error else " hidden",
            invalid=' aria-invalid="true"' if error else "",
        )  # fmt: skip
        return HTMLResponse(page, error.status if error else 200, headers=NO_STORE)

    def redirect(self, request: Request, session: str | None = None) -> Response:
        """To the address without its token; with a new session, its cookie."""
        response = RedirectResponse("./" + _query_without_token(request), 303, headers=NO_STORE)
        if session is not None:
            set_session_cookie(response, request, session, int(self.sessions.seconds))
        return response

    def without_session(self, request: Request) -> Response:
        if not is_page_request(request.scope):
            return PlainTextResponse("sign in on the page first", 401, headers=SIGN_IN_HEADERS)
        secret = request.query_params.get(TOKEN_PARAMETER, "")
        if self.token is None or (self.token and not secret):
            return self.draw_form(request)
        try:
            return self.redirect(request, self.open(secret))
        except ApiError as error:
            return self.draw_form(request, error)


class AuthMiddleware:
    """Passes requests with a session, the ``current_session``, on; ``sign_in`` answers the others."""

    def __init__(self, app: ASGIApp, sign_in: SignIn) -> None:
        self.app = app
        self.sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current_session.set(None)
        if scope["type"] == "lifespan" or scope["path"] in PUBLIC_PATHS:
            await self.app(scope, receive, send)
            return
        session = self.sign_in.sessions.find(session_token(HTTPConnection(scope)))
        if session is None:
            await self.sign_in.without_session(Request(scope))(scope, receive, send)
        elif is_page_request(scope) and TOKEN_PARAMETER in Request(scope).query_params:
            await self.sign_in.redirect(Request(scope))(scope, receive, send)
        else:
            current_session.set(session)
            await self.app(scope, receive, send)


def build_login_routes(sign_in: SignIn) -> APIRouter:
    """``/login`` and ``/logout``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def form(request: Request) -> Response:
        return sign_in.redirect(request)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        try:
            form = parse_qs((await read_body(request, MAX_FORM_BYTES, FORM_SECONDS)).decode("utf-8", "replace"))
            session = await run_in_threadpool(sign_in.open, form.get("key", [""])[0].strip())
        except ApiError as error:
            return sign_in.draw_form(request, error)
        sign_in.sessions.close(session_token(request))
        return sign_in.redirect(request, session)

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        sign_in.sessions.close(session_token(request))
        response = RedirectResponse("./", 303)
        set_session_cookie(response, request, "", 0)
        return response

    return router


def draw_user() -> str:
    """Owner and role of the current session, and the button to sign out; nothing on one machine."""
    session = current_session.get()
    if session is None or not session.key:
        return ""
    return (
        f'<form class="lcl-visitor" data-role="{esc(session.role)}" method="post" action="logout">'
        f"<span><b>{esc(session.owner)}</b> <small>{esc(session.role)}</small></span><button>Sign out</button></form>"
    )


def is_page_request(scope: Scope) -> bool:
    """Is this a request for the page itself, not for its files or events?"""
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"


def cookie_name(request: HTTPConnection) -> str:
    """With TLS a name that only this host can set; else one for each port, since ports of a host share cookies."""
    if request.url.scheme in ("https", "wss"):
        return f"__Host-{COOKIE}"
    port = PORT_PATTERN.search(request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


def session_token(request: HTTPConnection) -> str | None:
    return request.cookies.get(cookie_name(request))


def set_session_cookie(response: Response, request: HTTPConnection, token: str, seconds: int) -> None:
    """Unreadable by scripts, and only over TLS if the request used TLS. Other sites send it with links alone."""
    secure, name = request.url.scheme == "https", cookie_name(request)
    response.set_cookie(name, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")


def _query_without_token(request: Request) -> str:
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = urlencode([(name, value) for name, value in query if name != TOKEN_PARAMETER])
    return f"?{kept}" if kept else ""
