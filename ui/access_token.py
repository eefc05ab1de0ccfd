"""On one machine: the address that the launcher prints opens the page, and nothing else does.

Whoever else uses the machine can reach its ports; without a token they would act with the service's key.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from ui.gate import SIGN_IN, is_opening, session_token, set_session
from ui.html import MARK, TAGLINE, esc
from ui.token_file import NAME
from ui.visitors import Visitors

PARAMETER = "token"
SECONDS = 30 * 86_400.0  # of a session; it ends with the page's process all the same
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
WRONG = "This is not the token of the service. Copy it again."
# A link on another site's page does not bring the cookie along; asked from here it comes, and the link goes on.
SCRIPT = """
const dark = (() => { try { return localStorage.getItem('lcl-theme'); } catch { return null; } })();
document.body.classList.toggle('dark', dark ? dark === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
fetch('signed-in').then((answer) => answer.json()).then((there) => there && location.replace(CLEAN));
"""
PAGE = """<!doctype html>
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
</form></main><script>{script}</script></body></html>"""


class PrintedAddress:
    """Opens a session for whoever brings the token in the address, and then takes it out of the address.

    Args:
        token: empty: whoever opens the page gets a session.
    """

    open_to_all: tuple[str, ...] = ()

    def __init__(self, visitors: Visitors, token: str) -> None:
        self.visitors = visitors
        self.token = token

    def answer(self, request: Request) -> Response:
        if not is_opening(request.scope):
            return PlainTextResponse("open the page with the address that was printed at its start", 401, SIGN_IN)
        given = request.query_params.get(PARAMETER)
        if self.token and not self._is_right(given or ""):
            return draw_entry(request, WRONG if given else "")
        answer = _without_token(request)
        set_session(answer, request, self.visitors.enter("", "", ""), int(self.visitors.seconds))
        return answer

    def welcome(self, request: Request) -> Response | None:
        return _without_token(request) if PARAMETER in request.query_params else None

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def build_signed_in(visitors: Visitors) -> APIRouter:
    """Whether the browser has a session, for the script of a page that says that it has none."""
    router = APIRouter(include_in_schema=False)

    @router.get("/signed-in")
    def signed_in(request: Request) -> bool:
        return visitors.find(session_token(request)) is not None

    return router


def draw_entry(request: Request, problem: str = "") -> HTMLResponse:
    """Where to find the address, and a field for the token; 401."""
    kept = _kept_parameters(request)
    hidden = "".join(f'<input type="hidden" name="{esc(name)}" value="{esc(value)}">' for name, value in kept)
    body = PAGE.format(
        style=STYLE,
        mark=MARK,
        tagline=esc(TAGLINE),
        described=" problem" if problem else "",
        invalid=' aria-invalid="true"' if problem else "",
        hidden=hidden,
        problem=f'<p class="lcl-verdict lcl-verdict--bad" id="problem" role="alert">{esc(problem)}</p>' * bool(problem),
        name=NAME,
        script=SCRIPT.replace("CLEAN", f"'./' + {_SEARCH}"),
    )
    return HTMLResponse(body, 401, headers={"cache-control": "no-store", **SIGN_IN})


# the address without its token, as the browser sees it
_SEARCH = (
    "((p) => { p.delete('token'); const q = p.toString(); return q ? '?' + q : ''; })"
    "(new URLSearchParams(location.search))"
)


def _kept_parameters(request: Request) -> list[tuple[str, str]]:
    given = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return [(name, value) for name, value in given if name != PARAMETER]


def _without_token(request: Request) -> RedirectResponse:
    query = urlencode(_kept_parameters(request))
    return RedirectResponse("./" + (f"?{query}" if query else ""), 303, headers={"cache-control": "no-store"})
