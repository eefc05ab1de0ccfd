"""The HTTP server of the service and of the page: bounds on connections, and deadlines for what a client sends."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lcl_core.common.processes import raise_open_files

MAX_CONNECTIONS = 1000  # a further request is answered with 503
MAX_SILENT = 500  # connections that owe the rest of a request; above it the one that is silent longest is closed
HEAD_SECONDS = 15.0  # for the head of a request
BODY_SECONDS = 45.0  # between two parts of its body
OPEN_FILES = MAX_CONNECTIONS + 512  # also of database, downloads and encoders


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose client does not go on with its request."""

    owing: dict[DeadlineProtocol, asyncio.TimerHandle] = {}  # noqa: RUF012 - all connections; silent longest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(HEAD_SECONDS)
        if len(self.owing) > MAX_SILENT:
            next(iter(self.owing)).close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.SEND_BODY:
            self._expect(BODY_SECONDS)
        elif self.conn.their_state is not h11.IDLE:
            self._expect(None)
        elif self not in self.owing:
            self._expect(HEAD_SECONDS)

    def close(self) -> None:
        if self.flow.read_paused:  # it is the server that has not read on
            self._expect(BODY_SECONDS)
        else:
            self.transport.close()

    def _expect(self, seconds: float | None) -> None:
        """The client owes something within ``seconds``; None: nothing."""
        if (timer := self.owing.pop(self, None)) is not None:
            timer.cancel()
        if seconds is not None:
            self.owing[self] = self.loop.call_later(seconds, self.close)


def server_config(app: Any, **options: Any) -> uvicorn.Config:
    """Configuration with these bounds. Raises the number of files that the process may open, as far as permitted."""
    raise_open_files(OPEN_FILES)
    return uvicorn.Config(
        app, http=DeadlineProtocol, ws="none", server_header=False, limit_concurrency=MAX_CONNECTIONS, **options
    )
