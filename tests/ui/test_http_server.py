"""The page's server while somebody without a session sends requests that never end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress

import pytest
import uvicorn

from api import http_server

HALF = {
    "head": b"GET / HTTP/1.1\r\nhost: page\r\n",
    "body": b"POST /login HTTP/1.1\r\nhost: page\r\ncontent-length: 4000\r\n\r\nkey=",
    "nothing": b"",
}


async def read_body(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("half", HALF)
def test_half_requests_are_closed_and_stop_nobody(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a deadline, and above a number at once: whoever sends a whole request meanwhile is answered."""
    for name, value in (("HEAD_SECONDS", 1.0), ("BODY_SECONDS", 1.0), ("MAX_SILENT", 20), ("MAX_CONNECTIONS", 30)):
        monkeypatch.setattr(http_server, name, value)

    async def scenario() -> None:
        server = uvicorn.Server(http_server.server_config(read_body, log_level="critical", lifespan="off"))
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            serving = asyncio.create_task(server.serve([listening]))
            address = listening.getsockname()
            strangers = []
            for _ in range(60):
                strangers.append(await asyncio.open_connection(*address))
                strangers[-1][1].write(HALF[half])
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nhost: page\r\nconnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
            for reader, _ in strangers:
                with suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5) in (b"",), "closed without an answer"
            assert not http_server.DeadlineProtocol.owing
            server.should_exit = True
            await serving

    asyncio.run(scenario())
