"""Authentication of the page: middleware, sign-in with an API key (team), access token in the address (one machine).

On one machine the token keeps other users of the machine, who can reach its ports, from acting with the service's key.
"""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Annotated, Protocol
from urllib.parse import parse_qs, parse_qsl, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.client import ApiError, Client
from ui.html import LOGO_SVG, TAGLINE, esc
from ui.sessions import SESSION_SCOPE_KEY, SessionStore, use_key
from ui.settings import TOKEN_FILE

COOKIE = "lcl_session"
PUBLIC_PATHS = ("/healthz", "/signed-in")
SIGN_IN_HEADERS = {"x-lcl-sign-in": "1"}  # tells page.js that the session has ended
NO_STORE = {"cache-control": "no-store"}
PORT_PATTERN = re.compile(r":([0-9]{1,5})$", re.ASCII)
TOKEN_PARAMETER = "token"  # noqa: S105 - name of the query parameter
TOKEN_SESSION_SECONDS = 30 * 86_400.0
MAX_FORM_BYTES = 4096
KEY_PATTERN = re.compile(r"[!-~]+", re.ASCII)  # characters of a header value
WRONG_TOKEN = "This is not the token of the service. Copy it again."  # noqa: S105
KEY_MISSING = "Enter your API key."
KEY_UNKNOWN = "This key is not valid: it is unknown, revoked or expired."
KEY_TOO_LONG = "That is too long to be an API key."
KEY_BUSY = "Too many requests with this key at the moment. Wait a little and try again."

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · LCL</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body class="lcl-login"><main>
<header class="lcl-header">{logo}<div><h1>LCL</h1><p>{tagline}</p></div></header>
{form}</main><script>{script}</script></body></html>"""
# Applies the user's colour scheme. A link on another site does not send the SameSite cookie; the fetch does, and a user
# with a session is sent to the address of the link.
SCRIPT = """
const dark = (() => { try { return localStorage.getItem('lcl-theme'); } catch { return null; } })();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
fetch('signed-in').then((answer) => answer.json()).then((there) => there && location.replace('./' + QUERY));
"""
QUERY_WITHOUT_TOKEN = (
    "((p) => { p.delete('token'); const q = p.toString(); return q ? '?' + q : ''; })"  # noqa: S105
    "(new URLSearchParams(location.search))"
)
LOGIN_FORM = """<form method="post" action="{action}">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" autocapitalize="none"
 required maxlength="512" autofocus aria-describedby="hint{described}"{invalid}>
{problem}<button>Sign in</button>
<p class="lcl-note" id="hint">Runs are shown to the owner of their key. An admin makes one with
<code>lcl keys create NAME</code>.</p>
</form>"""
TOKEN_FORM = """<form method="get" action="./">
<p><strong>Open the page with the address that was printed when the service started.</strong></p>
<p class="lcl-note"><code>make up</code> and <code>make demo</code> print it. It ends with <code>/?token=…</code>,
so that other users of this machine cannot use the service.</p>
<label for="token">Or enter the token</label>
<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" autocapitalize="none"
 required maxlength="256" autofocus aria-describedby="hint{described}"{invalid}>
{hidden}{problem}<button>Open</button>
<p class="lcl-note" id="hint">It is in the file <code>{file}</code> of the service's folder: after <code>make up</code>,
<code>cat .lcl/{file}</code> shows it.</p>
</form>"""  # noqa: S105


class SignInMethod(Protocol):
    """How a user gets a session. ``public_paths``: paths that need none."""

    public_paths: tuple[str, ...]

    def without_session(self, request: Request) -> Response:
        """The response to a request without a session."""
        ...

    def with_session(self, request: Request) -> Response | None:
        """The response to a request for the page with a session; None: the page itself."""
        ...


class AuthMiddleware:
    """Passes requests with a session on; ``sign_in`` answers the others. Puts the session's token into the scope."""

    def __init__(self, app: ASGIApp, sessions: SessionStore, sign_in: SignInMethod) -> None:
        self.app = app
        self.sessions = sessions
        self.sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in (*PUBLIC_PATHS, *self.sign_in.public_paths):
            await self.app(scope, receive, send)
            return
        token = session_token(HTTPConnection(scope))
        if self.sessions.find(token):
            response = self.sign_in.with_session(Request(scope)) if is_page_request(scope) else None
            await (response or self.app)({**scope, SESSION_SCOPE_KEY: token}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.sign_in.without_session(Request(scope))(scope, receive, send)


class ApiKeySignIn:
    """Team: a request for the page is redirected to ``login``, which keeps the query of the address."""

    public_paths: tuple[str, ...] = ("/login",)

    def without_session(self, request: Request) -> Response:
        if is_page_request(request.scope):
            return _redirect("login", request, NO_STORE)
        return PlainTextResponse("sign in first", 401, headers=SIGN_IN_HEADERS)

    def with_session(self, request: Request) -> Response | None:
        return None


class TokenSignIn:
    """One machine: the token in the address, or any address if it is empty, opens a session; a redirect removes it."""

    public_paths: tuple[str, ...] = ()

    def __init__(self, sessions: SessionStore, token: str) -> None:
        self.sessions = sessions
        self.token = token

    def without_session(self, request: Request) -> Response:
        if not is_page_request(request.scope):
            return PlainTextResponse(
                "open the page with the address that was printed at its start", 401, SIGN_IN_HEADERS
            )
        token = request.query_params.get(TOKEN_PARAMETER, "")
        if self.token and not hmac.compare_digest(token.encode(), self.token.encode()):
            return token_page(request, WRONG_TOKEN if token else "")
        response = _redirect_without_token(request)
        set_session_cookie(response, request, self.sessions.open("", "", ""), int(self.sessions.seconds))
        return response

    def with_session(self, request: Request) -> Response | None:
        return _redirect_without_token(request) if TOKEN_PARAMETER in request.query_params else None


def build_session_check(sessions: SessionStore) -> APIRouter:
    """``/signed-in``: whether the browser has a session, for the script of the sign-in pages."""
    router = APIRouter(include_in_schema=False)

    @router.get("/signed-in")
    def signed_in(request: Request) -> bool:
        return sessions.find(session_token(request)) is not None

    return router


def build_login_routes(client: Client, sessions: SessionStore) -> APIRouter:
    """``/login`` and ``/logout``. ``client`` must use ``SessionKeyAuth``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def form(request: Request) -> Response:
        if sessions.find(session_token(request)):
            return _redirect("./", request)
        return login_page(request)

    @router.post("/login")
    def log_in(request: Request, key: Annotated[str | None, Depends(_read_form_key)]) -> Response:
        if not key:
            return login_page(request, 422, KEY_TOO_LONG if key is None else KEY_MISSING)
        if not KEY_PATTERN.fullmatch(key):
            return login_page(request, 401, KEY_UNKNOWN)
        use_key(key)
        try:
            own = client.own_key()
        except ApiError as error:
            return login_page(request, *_key_error(error))
        sessions.close(session_token(request))
        response = _redirect("./", request)
        set_session_cookie(response, request, sessions.open(key, own["owner"], own["role"]), int(sessions.seconds))
        return response

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        sessions.close(session_token(request))
        response = RedirectResponse("login", 303)
        set_session_cookie(response, request, "", 0)
        return response

    return router


def login_page(request: Request, status: int = 200, problem: str = "") -> HTMLResponse:
    form = LOGIN_FORM.format(action=esc(_with_query("login", request.scope)), **_problem_fields(problem))
    return HTMLResponse(_page("Sign in", form, "location.search"), status, headers=NO_STORE)


def token_page(request: Request, problem: str = "") -> HTMLResponse:
    """Says where the address was printed, with a field for the token; status 401."""
    hidden = "".join(
        f'<input type="hidden" name="{esc(name)}" value="{esc(value)}">' for name, value in _other_parameters(request)
    )
    form = TOKEN_FORM.format(hidden=hidden, file=TOKEN_FILE, **_problem_fields(problem))
    body = _page("Open with the printed address", form, QUERY_WITHOUT_TOKEN)
    return HTMLResponse(body, 401, headers=NO_STORE | SIGN_IN_HEADERS)


def draw_user(sessions: SessionStore) -> str:
    """Owner and role of the current session, and the button to sign out."""
    session = sessions.current()
    if session is None:
        return ""
    return (
        f'<form class="lcl-visitor" data-role="{esc(session.role)}" method="post" action="logout">'
        f"<span><b>{esc(session.owner)}</b><small>{esc(session.role)}</small></span><button>Sign out</button></form>"
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
    """Unreadable by scripts, not sent by other sites, and only over TLS if the request used TLS."""
    secure, name = request.url.scheme == "https", cookie_name(request)
    response.set_cookie(name, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def _page(title: str, form: str, query: str) -> str:
    """``query``: JavaScript expression for the query of the page's address."""
    script = SCRIPT.replace("QUERY", query)
    return PAGE.format(title=title, style=STYLE, logo=LOGO_SVG, tagline=esc(TAGLINE), form=form, script=script)


def _problem_fields(problem: str) -> dict[str, str]:
    """Fields of both form templates."""
    if not problem:
        return {"described": "", "invalid": "", "problem": ""}
    box = f'<p class="lcl-verdict lcl-verdict--bad" id="problem" role="alert">{esc(problem)}</p>'
    return {"described": " problem", "invalid": ' aria-invalid="true"', "problem": box}


async def _read_form_key(request: Request) -> str | None:
    """The key in the form; None for a body over ``MAX_FORM_BYTES``. Unauthenticated: nothing further is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _key_error(error: ApiError) -> tuple[int, str]:
    if error.status in (401, 0) and error.code != "unreachable":  # 0: the key does not fit into a header
        return 401, KEY_UNKNOWN
    return (429, KEY_BUSY) if error.status == 429 else (503, f"The service did not answer: {error.message}")


def _with_query(path: str, scope: Scope) -> str:
    """``path``, relative to where the page is served, with the query of the request."""
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _redirect(path: str, request: Request, headers: dict[str, str] | None = None) -> RedirectResponse:
    return RedirectResponse(_with_query(path, request.scope), 303, headers=headers)


def _other_parameters(request: Request) -> list[tuple[str, str]]:
    query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [(name, value) for name, value in query if name != TOKEN_PARAMETER]


def _redirect_without_token(request: Request) -> RedirectResponse:
    query = urlencode(_other_parameters(request))
    return RedirectResponse("./" + (f"?{query}" if query else ""), 303, headers=NO_STORE)
