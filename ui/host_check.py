"""Answers only under the names that the page is meant to be reached by.

A web site can let its own name lead to 127.0.0.1 (DNS rebinding); the browser then takes the page for a part of that
site. Its requests carry the site's name in ``Host``, which no script can change.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9][a-z0-9._-]{0,252})(?::([0-9]{1,5}))?", re.ASCII)
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
EXEMPT = ("/healthz",)  # probes of containers ask by whatever address the container has
Name = tuple[str, int | None]  # host, and port if one is said


def parse_host(value: str) -> Name | None:
    """``name``, ``name:port``, ``[v6]:port`` in lower case; None for anything else."""
    found = HOST.fullmatch(value.strip().lower())
    if found is None:
        return None
    return found[1], int(found[2]) if found[2] else None


def parse_hosts(value: str) -> list[Name]:
    """A list of hosts, parted by commas. Raises: ValueError."""
    names = [part for part in value.split(",") if part.strip()]
    parsed = [name for part in names if (name := parse_host(part))]
    if len(parsed) != len(names):
        raise ValueError("must be hosts such as lcl.example.org or 10.0.0.5:8080, parted by commas")
    return parsed


class HostCheck:
    """Refuses with 403 whatever was asked under another name, WebSockets included. Plain ASGI.

    Args:
        hosts: names that are allowed besides those of the loopback with the port that the page listens on; without a
            port: under any.
        any_host: allow every name while ``hosts`` is empty.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[Name] = (), any_host: bool = False) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.any_host = any_host and not hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in EXEMPT or self.any_host or self._is_allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse(_refusal(scope), 403)(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = _given(scope)
        name = parse_host(given[0]) if len(given) == 1 else None
        if name is None:
            return False
        host, port = name
        port = port or DEFAULT_PORTS.get(scope.get("scheme", "http"))
        server = scope.get("server")
        if host in LOOPBACK and server is not None and port == server[1]:
            return True
        return (host, None) in self.hosts or (host, port) in self.hosts


def _given(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]


def _refusal(scope: Scope) -> str:
    given = _given(scope)
    name = given[0] if len(given) == 1 and parse_host(given[0]) else ""
    under = f"the name {name}" if name else "this name"
    return f"the page is not served under {under}; if it should be, add the name to LCL_UI_HOSTS and start it again\n"
