"""The page's routes that exist. Gradio brings some ninety; its browser side asks for these few here.

Everything else is answered 404 before Gradio sees it: links that keep a page's state, its queue, proxy, streams,
component servers, monitoring, editors, and whatever another version of it may add.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OWN_READ = (
    r"/healthz", r"/signed-in", r"/media/.+", r"/corpus/.+", r"/study/.+", r"/encoder/.+", r"/vectors/.+",
)  # fmt: skip
SIGN_IN_READ, SIGN_IN_WRITE = (r"/login",), (r"/login", r"/logout")
GRADIO_READ = (
    r"/", r"/config/?", r"/theme\.css", r"/favicon\.ico", r"/manifest\.json", r"/robots\.txt", r"/pwa_icon(/\d+)?",
    r"/assets/.+", r"/static/.+", r"/svelte/.+", r"/gradio_api/info/?", r"/gradio_api/theme\.css",
    r"/gradio_api/app_id/?", r"/gradio_api/heartbeat/[^/]+",
    r"/gradio_api/upload_progress", r"/gradio_api/file=.+",
)  # fmt: skip
GRADIO_WRITE = (r"/gradio_api/run/predict", r"/gradio_api/upload")
FORBIDDEN_PARAMETERS = {"deep_link"}  # opens a page's state that somebody else has kept


class PageRoutes:
    """Answers 404 to every request for a route that the page does not need. Plain ASGI.

    Args:
        sign_in: whether visitors sign in here; Gradio has routes of the same names.
    """

    def __init__(self, app: ASGIApp, sign_in: bool) -> None:
        self.app = app
        self.read = _any_of(*OWN_READ, *GRADIO_READ, *(SIGN_IN_READ if sign_in else ()))
        self.write = _any_of(*GRADIO_WRITE, *(SIGN_IN_WRITE if sign_in else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_needed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("there is nothing here; the page is at its root", 404)(scope, receive, send)

    def _is_needed(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD", "POST"):
            return False
        routes = self.write if scope["method"] == "POST" else self.read
        query = scope["query_string"].decode("latin-1")
        named = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
        return routes.fullmatch(scope["path"]) is not None and not named & FORBIDDEN_PARAMETERS


def _any_of(*routes: str) -> re.Pattern[str]:
    return re.compile("|".join(routes), re.DOTALL)
