"""Only the page itself may act through the page: whoever reaches it acts with its key, so another site must not.

Gradio, served under a name of its own, answers every site that asks as if it were invited.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.host_check import Name, parse_host

LOOKING = ("GET", "HEAD")
REFUSAL = "this was asked by another site; open the page itself"


class OwnOrigin:
    """Refuses what another site's page would change, and invites none to read. Plain ASGI.

    Args:
        hosts: names of the page besides the one that a request says in ``Host``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[Name] = ()) -> None:
        self.app = app
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in LOOKING and is_foreign(
            Headers(scope=scope), self.hosts
        ):
            await PlainTextResponse(REFUSAL, 403)(scope, receive, send)
            return

        async def send_uninviting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
            await send(message)

        await self.app(scope, receive, send_uninviting if scope["type"] == "http" else send)


def is_foreign(headers: Headers, hosts: Collection[Name] = ()) -> bool:
    """Whether a browser says that another site asks. It says so where the connection is safe; else the origin tells.

    Programs, which say neither, are their own masters. ``X-Forwarded-Host`` is not asked: anybody can send it.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    netloc = urlsplit(origin).netloc
    name = parse_host(netloc)
    return netloc != headers.get("host") and not (name and (name in hosts or (name[0], None) in hosts))
