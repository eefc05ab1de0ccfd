"""Signing in with an API key, and out again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.client import ApiError, Client
from ui.gate import session_token, set_session, with_query
from ui.html import MARK, TAGLINE, esc
from ui.visitors import Visitors, act_with

LONGEST_FORM = 4096  # bytes
SENDABLE = re.compile(r"[!-~]+", re.ASCII)  # what a header can hold; no key has anything else
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
EMPTY = "Enter your API key."
UNKNOWN = "This key opens nothing: it is unknown, revoked or expired."
TOO_LONG = "That is too long to be an API key."
BUSY = "Too many requests with this key at the moment. Wait a little and try again."
# The reader's choice of colours, as on the page. The cookie does not come along when a link of another site is
# followed; asked from here it does, and who is signed in goes on to where the link leads.
SCRIPT = """
const dark = (() => { try { return localStorage.getItem('lcl-theme'); } catch { return null; } })();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
fetch('signed-in').then((answer) => answer.json()).then((there) => there && location.replace('./' + location.search));
"""
PAGE = """<!doctype html>
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


def build_login(client: Client, visitors: Visitors) -> APIRouter:
    """``client`` must ask with the key that ``act_with`` names."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def form(request: Request) -> Response:
        if visitors.find(session_token(request)):
            return _to("./", request)
        return draw_form(request)

    @router.post("/login")
    def sign_in(request: Request, key: Annotated[str | None, Depends(_given_key)]) -> Response:
        if not key:
            return draw_form(request, 422, TOO_LONG if key is None else EMPTY)
        if not SENDABLE.fullmatch(key):
            return draw_form(request, 401, UNKNOWN)
        act_with(key)
        try:
            mine = client.own_key()
        except ApiError as error:
            return draw_form(request, *_refusal(error))
        visitors.leave(session_token(request))
        answer = _to("./", request)
        token = visitors.enter(key, mine["owner"], mine["role"])
        set_session(answer, request, token, int(visitors.seconds))
        return answer

    @router.post("/logout")
    def sign_out(request: Request) -> Response:
        visitors.leave(session_token(request))
        answer = RedirectResponse("login", 303)
        set_session(answer, request, "", 0)
        return answer

    return router


def draw_form(request: Request, status: int = 200, problem: str = "") -> HTMLResponse:
    """The page that asks for a key, and what was wrong with the last one."""
    told = f'<p class="lcl-verdict lcl-verdict--bad" id="problem" role="alert">{esc(problem)}</p>' if problem else ""
    body = PAGE.format(
        style=STYLE,
        mark=MARK,
        tagline=esc(TAGLINE),
        action=esc(with_query("login", request.scope)),
        described=" problem" if problem else "",
        invalid=' aria-invalid="true"' if problem else "",
        problem=told,
        script=SCRIPT,
    )
    return HTMLResponse(body, status, headers={"cache-control": "no-store"})


def draw_visitor(visitors: Visitors) -> str:
    """Who is signed in, and the way out."""
    visitor = visitors.present()
    if visitor is None:
        return ""
    return (
        f'<form class="lcl-visitor" method="post" action="logout"><span><b>{esc(visitor.owner)}</b>'
        f"<small>{esc(visitor.role)}</small></span><button>Sign out</button></form>"
    )


async def _given_key(request: Request) -> str | None:
    """The form's key; None when more was sent than a form of ours holds. Strangers come here: nothing else is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            return None
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def _refusal(error: ApiError) -> tuple[int, str]:
    if error.status in (401, 0) and error.code != "unreachable":  # 0: no header can hold it
        return 401, UNKNOWN
    return (429, BUSY) if error.status == 429 else (503, f"The service cannot be asked: {error.message}")


def _to(path: str, request: Request) -> RedirectResponse:
    return RedirectResponse(with_query(path, request.scope), 303)
