"""Authentication of the page: middleware, sign-in with an API key (team), access token in the address (one machine)."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Annotated, Protocol
from urllib.parse import parse_qs, parse_qsl, urlencode

from fastapi import APIRouter, Depends
from fastapi import Request as fastapi_Request
from fastapi.responses import HTMLResponse as responses_HTMLResponse
from fastapi.responses import RedirectResponse as responses_RedirectResponse
from fastapi.responses import Response as responses_Response
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.client import ApiError, Client
from ui.html import LOGO_SVG, TAGLINE, esc
from ui.sessions import SESSION_SCOPE_KEY, SessionStore, use_key
from ui.token_file import TOKEN_FILE

COOKIE = "lcl_session"
PUBLIC_PATHS = ("/healthz", "/signed-in")
SIGN_IN_HEADERS = {"x-lcl-sign-in": "1"}  # by which the page's script knows that its session has ended
PORT_PATTERN = re.compile(r":([0-9]{1,5})$", re.ASCII)


class SignInMethod(Protocol):
    """How one comes by a session. ``open_to_all``: paths that lead there."""

    open_to_all: tuple[str, ...]

    def answer(self, request: Request) -> Response:
        """To whoever asks for something without one."""
        ...

    def welcome(self, request: Request) -> Response | None:
        """To whoever asks for the page with one: None lets the page answer."""
        ...


class AuthMiddleware:
    """Lets requests with a session through, and leaves the others to ``entry``.

    Plain ASGI. Leaves the session's token in the scope, where events find whose they are.
    """

    def __init__(self, app: ASGIApp, visitors: SessionStore, entry: SignInMethod) -> None:
        self.app = app
        self.visitors = visitors
        self.entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in (*PUBLIC_PATHS, *self.entry.open_to_all):
            await self.app(scope, receive, send)
            return
        token = session_token(HTTPConnection(scope))
        if self.visitors.find(token):
            answer = self.entry.welcome(Request(scope)) if is_page_request(scope) else None
            await (answer or self.app)({**scope, SESSION_SCOPE_KEY: token}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.entry.answer(Request(scope))(scope, receive, send)


class ApiKeySignIn:
    """In a team: whoever opens the page is sent to ``login``, with what the address asked for."""

    open_to_all: tuple[str, ...] = ("/login",)

    def answer(self, request: Request) -> Response:
        if is_page_request(request.scope):
            return RedirectResponse(with_query("login", request.scope), 303, headers={"cache-control": "no-store"})
        return PlainTextResponse("sign in first", 401, headers=SIGN_IN_HEADERS)

    def welcome(self, request: Request) -> Response | None:
        return None


def is_page_request(scope: Scope) -> bool:
    """Whether somebody opens the page itself."""
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"


def cookie_name(request: HTTPConnection) -> str:
    """Where TLS is spoken a name that browsers accept from this very host alone; else one for each port, because
    pages on other ports of the host share its cookies."""
    if request.url.scheme in ("https", "wss"):
        return f"__Host-{COOKIE}"
    port = PORT_PATTERN.search(request.headers.get("host", ""))
    return f"{COOKIE}_{port[1]}" if port else COOKIE


def session_token(request: HTTPConnection) -> str | None:
    """What the browser says that its session is."""
    return request.cookies.get(cookie_name(request))


def set_session_cookie(answer: Response, request: HTTPConnection, token: str, seconds: int) -> None:
    """No script reads the cookie, no other site sends it, and where TLS was spoken it is never sent without."""
    secure = request.url.scheme == "https"
    name = cookie_name(request)
    answer.set_cookie(name, token, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


def with_query(path: str, scope: Scope) -> str:
    """``path``, which is relative to wherever the page is served, with the query of the request."""
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


TOKEN_PARAMETER = "token"  # noqa: S105
TOKEN_SESSION_SECONDS = 30 * 86_400.0  # of a session; it ends with the page's process all the same
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
WRONG_TOKEN = "This is not the token of the service. Copy it again."  # noqa: S105
# A link on another site's page does not bring the cookie along; asked from here it comes, and the link goes on.
TOKEN_SCRIPT = """
const dark = (() => { try { return localStorage.getItem('lcl-theme'); } catch { return null; } })();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
fetch('signed-in').then((answer) => answer.json()).then((there) => there && location.replace(CLEAN));
"""  # noqa: S105
TOKEN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Open with the printed address · LCL</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body class="lcl-login"><main>
<header class="lcl-header">{mark}<div><h1>LCL</h1><p>{tagline}</p></div></header>
<form method="get" action="./">
<p><strong>Open the page with the address that was printed when the service started.</strong></p>
<p class="lcl-note"><code>make up</code> and <code>make demo</code> print it. It ends with <code>/?token=…</code>,
so that nobody else on this machine can use the service.</p>
<label for="token">Or enter the token</label>
<input id="token" name="token" type="password" autocomplete="off" spellcheck="false" autocapitalize="none"
 required maxlength="256" autofocus aria-describedby="hint{described}"{invalid}>
{hidden}{problem}<button>Open</button>
<p class="lcl-note" id="hint">It is in the file <code>{name}</code> of the service's folder: after <code>make up</code>,
<code>cat .lcl/{name}</code> shows it.</p>
</form></main><script>{script}</script></body></html>"""  # noqa: S105


class TokenSignIn:
    """Opens a session for whoever brings the token in the address, and then takes it out of the address.

    Args:
        token: empty: whoever opens the page gets a session.
    """

    open_to_all: tuple[str, ...] = ()

    def __init__(self, visitors: SessionStore, token: str) -> None:
        self.visitors = visitors
        self.token = token

    def answer(self, request: Request) -> Response:
        if not is_page_request(request.scope):
            return PlainTextResponse(
                "open the page with the address that was printed at its start", 401, SIGN_IN_HEADERS
            )
        given = request.query_params.get(TOKEN_PARAMETER)
        if self.token and not self._is_right(given or ""):
            return token_page(request, WRONG_TOKEN if given else "")
        answer = _redirect_without_token(request)
        set_session_cookie(answer, request, self.visitors.enter("", "", ""), int(self.visitors.seconds))
        return answer

    def welcome(self, request: Request) -> Response | None:
        return _redirect_without_token(request) if TOKEN_PARAMETER in request.query_params else None

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def build_session_check(visitors: SessionStore) -> APIRouter:
    """Whether the browser has a session, for the script of a page that says that it has none."""
    router = APIRouter(include_in_schema=False)

    @router.get("/signed-in")
    def signed_in(request: Request) -> bool:
        return visitors.find(session_token(request)) is not None

    return router


def token_page(request: Request, problem: str = "") -> HTMLResponse:
    """Where to find the address, and a field for the token; 401."""
    kept = _other_parameters(request)
    hidden = "".join(f'<input type="hidden" name="{esc(name)}" value="{esc(value)}">' for name, value in kept)
    body = TOKEN_PAGE.format(
        style=STYLE,
        mark=LOGO_SVG,
        tagline=esc(TAGLINE),
        described=" problem" if problem else "",
        invalid=' aria-invalid="true"' if problem else "",
        hidden=hidden,
        problem=f'<p class="lcl-verdict lcl-verdict--bad" id="problem" role="alert">{esc(problem)}</p>' * bool(problem),
        name=TOKEN_FILE,
        script=TOKEN_SCRIPT.replace("CLEAN", f"'./' + {_QUERY_WITHOUT_TOKEN}"),
    )
    return HTMLResponse(body, 401, headers={"cache-control": "no-store", **SIGN_IN_HEADERS})


# the address without its token, as the browser sees it
_QUERY_WITHOUT_TOKEN = (  # noqa: S105
    "((p) => { p.delete('token'); const q = p.toString(); return q ? '?' + q : ''; })"
    "(new URLSearchParams(location.search))"
)


def _other_parameters(request: Request) -> list[tuple[str, str]]:
    given = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [(name, value) for name, value in given if name != TOKEN_PARAMETER]


def _redirect_without_token(request: Request) -> RedirectResponse:
    query = urlencode(_other_parameters(request))
    return RedirectResponse("./" + (f"?{query}" if query else ""), 303, headers={"cache-control": "no-store"})


MAX_FORM_BYTES = 4096  # bytes
KEY_PATTERN = re.compile(r"[!-~]+", re.ASCII)  # what a header can hold; no key has anything else
KEY_MISSING = "Enter your API key."
KEY_UNKNOWN = "This key opens nothing: it is unknown, revoked or expired."
KEY_TOO_LONG = "That is too long to be an API key."
KEY_BUSY = "Too many requests with this key at the moment. Wait a little and try again."
# The reader's choice of colours, as on the page. The cookie does not come along when a link of another site is
# followed; asked from here it does, and who is signed in goes on to where the link leads.
LOGIN_SCRIPT = """
const dark = (() => { try { return localStorage.getItem('lcl-theme'); } catch { return null; } })();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
fetch('signed-in').then((answer) => answer.json()).then((there) => there && location.replace('./' + location.search));
"""
LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · LCL</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body class="lcl-login"><main>
<header class="lcl-header">{mark}<div><h1>LCL</h1><p>{tagline}</p></div></header>
<form method="post" action="{action}">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" autocapitalize="none"
 required maxlength="512" autofocus aria-describedby="hint{described}"{invalid}>
{problem}<button>Sign in</button>
<p class="lcl-note" id="hint">Runs are shown to the owner of their key. An admin makes one with
<code>lcl keys create NAME</code>.</p>
</form></main><script>{script}</script></body></html>"""


def build_login_routes(client: Client, visitors: SessionStore) -> APIRouter:
    """``client`` must ask with the key that ``act_with`` names."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def form(request: fastapi_Request) -> responses_Response:
        if visitors.find(session_token(request)):
            return _redirect("./", request)
        return login_page(request)

    @router.post("/login")
    def sign_in(request: fastapi_Request, key: Annotated[str | None, Depends(_read_form_key)]) -> responses_Response:
        if not key:
            return login_page(request, 422, KEY_TOO_LONG if key is None else KEY_MISSING)
        if not KEY_PATTERN.fullmatch(key):
            return login_page(request, 401, KEY_UNKNOWN)
        use_key(key)
        try:
            mine = client.own_key()
        except ApiError as error:
            return login_page(request, *_key_error(error))
        visitors.leave(session_token(request))
        answer = _redirect("./", request)
        token = visitors.enter(key, mine["owner"], mine["role"])
        set_session_cookie(answer, request, token, int(visitors.seconds))
        return answer

    @router.post("/logout")
    def sign_out(request: fastapi_Request) -> responses_Response:
        visitors.leave(session_token(request))
        answer = responses_RedirectResponse("login", 303)
        set_session_cookie(answer, request, "", 0)
        return answer

    return router


def login_page(request: fastapi_Request, status: int = 200, problem: str = "") -> responses_HTMLResponse:
    """The page that asks for a key, and what was wrong with the last one."""
    told = f'<p class="lcl-verdict lcl-verdict--bad" id="problem" role="alert">{esc(problem)}</p>' if problem else ""
    body = LOGIN_PAGE.format(
        style=STYLE,
        mark=LOGO_SVG,
        tagline=esc(TAGLINE),
        action=esc(with_query("login", request.scope)),
        described=" problem" if problem else "",
        invalid=' aria-invalid="true"' if problem else "",
        problem=told,
        script=LOGIN_SCRIPT,
    )
    return responses_HTMLResponse(body, status, headers={"cache-control": "no-store"})


def draw_user(visitors: SessionStore) -> str:
    """Who is signed in, and the way out."""
    visitor = visitors.present()
    if visitor is None:
        return ""
    return (
        f'<form class="lcl-visitor" method="post" action="logout"><span><b>{esc(visitor.owner)}</b>'
        f"<small>{esc(visitor.role)}</small></span><button>Sign out</button></form>"
    )


async def _read_form_key(request: fastapi_Request) -> str | None:
    """The form's key; None when more was sent than a form of ours holds. Strangers come here: nothing else is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _key_error(error: ApiError) -> tuple[int, str]:
    if error.status in (401, 0) and error.code != "unreachable":  # 0: no header can hold it
        return 401, KEY_UNKNOWN
    return (429, KEY_BUSY) if error.status == 429 else (503, f"The service cannot be asked: {error.message}")


def _redirect(path: str, request: fastapi_Request) -> responses_RedirectResponse:
    return responses_RedirectResponse(with_query(path, request.scope), 303)
