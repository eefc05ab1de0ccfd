"""TCP proxy in front of a PostgreSQL server on a unix socket; it can refuse connections, or lose the replies."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from sqlalchemy import URL, make_url

_CHUNK = 1 << 16


class TcpProxy:
    """Forwards bytes until ``swallow_replies``. From then on clients can connect and send, and receive nothing.

    Both hops stay open and acknowledge what arrives, so neither keepalives nor ``tcp_user_timeout`` notice anything.
    """

    def __init__(self, database_url: str) -> None:
        self._url = make_url(database_url)
        host = self._url.query.get("host") or self._url.host
        self._target = f"{host}/.s.PGSQL.{self._url.port or 5432}"
        self._swallows, self._refuses = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        address: URL = self._url.set(host=host, port=port, query={})
        return address.render_as_string(hide_password=False)

    def swallow_replies(self) -> None:
        self._swallows.set()

    def forward_replies(self) -> None:
        """Of new connections; those whose replies were lost are closed."""
        self.close_connections()
        self._swallows.clear()

    def refuse(self) -> None:
        """As a server that is down: connections break, and no new one is accepted."""
        self._refuses.set()
        self.close_connections()

    def accept(self) -> None:
        self._refuses.clear()

    def close_connections(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_connections()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            if self._refuses.is_set():
                client.close()
                continue
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if not (replies and self._swallows.is_set()):
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
