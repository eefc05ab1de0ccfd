"""The page's routes that exist. Gradio brings some ninety; its browser side asks for these few here.

Everything else is answered 404 before Gradio sees it: links that keep a page's state, its queue, proxy, streams,
component servers, monitoring, editors, and whatever another version of it may add.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OWN = (
    r"/healthz", r"/login", r"/logout", r"/signed-in", r"/media/.+", r"/corpus/.+", r"/study/.+", r"/encoder/.+",
    r"/vectors/.+",
)  # fmt: skip
GRADIO_READ = (
    r"/", r"/config/?", r"/theme\.css", r"/favicon\.ico", r"/manifest\.json", r"/robots\.txt", r"/pwa_icon(/\d+)?",
    r"/assets/.+", r"/static/.+", r"/svelte/.+", r"/gradio_api/info/?", r"/gradio_api/theme\.css",
    r"/gradio_api/startup-events", r"/gradio_api/app_id/?", r"/gradio_api/heartbeat/[^/]+",
    r"/gradio_api/upload_progress", r"/gradio_api/file=.+",
)  # fmt: skip
GRADIO_WRITE = (r"/gradio_api/run/predict", r"/gradio_api/upload")
READ = re.compile("|".join((*OWN, *GRADIO_READ)), re.DOTALL)
WRITE = re.compile("|".join((r"/login", r"/logout", *GRADIO_WRITE)))
FORBIDDEN_PARAMETERS = {"deep_link"}  # opens a page's state that somebody else has kept


class PageRoutes:
    """Answers 404 to every request for a route that the page does not need. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_needed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("there is nothing here; the page is at its root", 404)(scope, receive, send)


def is_needed(scope: Scope) -> bool:
    """Whether the page has that route for that method."""
    if scope["type"] != "http":
        return False
    routes = READ if scope["method"] in ("GET", "HEAD") else WRITE if scope["method"] == "POST" else None
    query = scope["query_string"].decode("latin-1")
    named = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    return routes is not None and routes.fullmatch(scope["path"]) is not None and not named & FORBIDDEN_PARAMETERS
