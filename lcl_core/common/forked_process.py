"""``python -m MODULE`` in a session of its own: forked by :mod:`lcl_core.common.fork_server`, or a new process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from lcl_core.common import fork_server
from lcl_core.common.fork_server import ForkRequest

# In which a server that serves accepts a connection. While it still imports, a new process is as quick.
_READY_SECONDS = 1.0


class ForkedProcess:
    """The part of :class:`subprocess.Popen` that a supervisor needs, for a child of a fork server. Thread-safe.

    When the server dies before it reported the exit status, the process group is killed and counts as killed.

    Attributes:
        stdin: the write end of its standard input, if that is a pipe.
        returncode: None while it runs; negative: the signal that ended it.
    """

    def __init__(self, pid: int, stdin: IO[bytes] | None, connection: socket.socket | None = None) -> None:
        self.pid = pid
        self.stdin = stdin
        self.returncode: int | None = None
        self._connection = connection  # None: a child of this process
        self._process = os.pidfd_open(pid)  # valid: the server keeps the zombie until the connection closes
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Raises: subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self.returncode is not None:
                    return self.returncode
                # several threads may wait: none keeps the lock for long
                rest = 0.1 if deadline is None else min(0.1, max(0.0, deadline - time.monotonic()))
                if _is_readable(self._connection or self._process, rest):
                    self.returncode = self._read_status()
                    continue
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)

    def send_signal(self, number: int) -> None:
        """To the process alone; no effect after its end."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read_status(self) -> int:
        if self._connection is None:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with self._connection:
            status: int | None = _receive(self._connection).get("status")
        if status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.kill()
            _is_readable(self._process, None)
            status = -signal.SIGKILL
        return status

    def __del__(self) -> None:
        os.close(self._process)
        if self._connection is not None:
            self._connection.close()


Process = ForkedProcess | subprocess.Popen[bytes]


def start_module(
    module: str,
    arguments: Sequence[str],
    *,
    server: str,
    env: Mapping[str, str],
    stdin: int = subprocess.PIPE,
    output: IO[bytes] | int = subprocess.DEVNULL,
    errors: IO[bytes] | None = None,
) -> Process:
    """Start ``python -m module arguments…`` in a session and process group of its own.

    Args:
        server: address of a fork server, or ``off``. Where it does not reply at once, or refuses, a new process starts.
        stdin: ``PIPE`` or ``DEVNULL``.
        output: where its standard output goes, and its standard error unless ``errors`` is given.
    """
    if server != "off" and (forked := _fork(server, module, arguments, env, stdin, output, errors)) is not None:
        return forked
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=stdin,
        stdout=output,
        stderr=errors or subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )


def _fork(
    server: str,
    module: str,
    arguments: Sequence[str],
    env: Mapping[str, str],
    stdin: int,
    output: IO[bytes] | int,
    errors: IO[bytes] | None,
) -> ForkedProcess | None:
    """None: the server cannot start it, and has not."""
    request = ForkRequest(module, list(arguments), dict(env), os.getcwd(), _umask())
    connection = socket.socket(socket.AF_UNIX)
    pipe: IO[bytes] | None = None
    pid = 0
    try:
        with open(os.devnull, "r+b", buffering=0) as null, contextlib.ExitStack() as stack:
            source: IO[bytes] = null
            if stdin == subprocess.PIPE:
                reading, writing = os.pipe()
                source, pipe = stack.enter_context(os.fdopen(reading, "rb")), os.fdopen(writing, "wb")
            target = null if isinstance(output, int) else output
            connection.settimeout(_READY_SECONDS)
            connection.connect(server)  # which starts the server
            if os.path.exists(server + fork_server.READY) and _receive(connection):
                connection.settimeout(None)
                request.send(connection, [source.fileno(), target.fileno(), (errors or target).fileno()])
                pid = int(_receive(connection)["pid"])
    except (OSError, KeyError):  # it is not there, still imports, or refuses
        pid = 0
    if pid:
        return ForkedProcess(pid, pipe, connection)
    connection.close()
    if pipe is not None:
        pipe.close()
    return None


def start_in_group(
    module: str, arguments: Sequence[str], env: Mapping[str, str], others: Sequence[Process] = ()
) -> Process:
    """Start ``python -m module arguments…`` in this process group; its standard input is a pipe from this process.

    Where a fork server started this process, it is forked, for which this process may have one thread.

    Args:
        others: started before, whose pipes it must not keep open.
    """
    loaded = fork_server.inherited
    if loaded is None or loaded.differs_in(env) is not None:
        return subprocess.Popen([sys.executable, "-m", module, *arguments], env=env, stdin=subprocess.PIPE)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        pipe = os.fdopen(writing, "wb")
        request = ForkRequest(module, list(arguments), dict(env), os.getcwd(), _umask(), [source.fileno(), 1, 2])
        pipes = [each.stdin for each in others if each.stdin is not None]
        return ForkedProcess(fork_server.fork_again(request, [pipe, *pipes]), pipe)


def _receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; empty at the end of the connection. Raises: TimeoutError."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows stays readable
        byte = connection.recv(1)
        if not byte:
            return {}
        line += byte
    return dict(json.loads(line))


def _umask() -> int:
    """Of this process; ``os.umask`` would change it for a moment."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))


def _is_readable(source: socket.socket | int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
