"""``python -m MODULE`` as a fork of a process that has imported its libraries, which takes seconds.

A forked job computes bitwise what ``python -m MODULE`` computes: the server starts no threads and uses no device. Only
the process that started the server can reach it: they share a pair of sockets without an address. With a request come
standard input, output and error, and a pipe for the job's process id and, at its end, its exit status.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_MAX_REQUEST = 1 << 20  # bytes; the socket takes less
_ROOM = "-" * 512  # last argument of the server: room for the command line of a job
# Variables that a job may have to itself: read when they are used. Any other may be read when a library is loaded.
_FREE = (
    *("LCL_", "AWS_", "GOOGLE_", "GCS_", "AZURE_", "PYTEST_", "RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "MASTER_"),
    *("GLOO_", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES", "ONEDNN_", "LRU_CACHE"),
    *("TORCHINDUCTOR_", "KMP_", "TOKENIZERS_PARALLELISM", "_"),
)


class ForkedProcess:
    """The part of :class:`subprocess.Popen` that a supervisor needs, for a child of a fork server. Thread-safe.

    When the server dies before it reported the exit status, the process group is killed and counts as killed.
    """

    def __init__(self, pid: int, stdin: IO[bytes] | None, reports: IO[str]) -> None:
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_status, args=(reports,), name=f"process {pid}", daemon=True).start()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process alone; no effect after its end."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await_status(self, reports: IO[str]) -> None:
        with reports:
            status = reports.readline()
        if not status:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.returncode = int(status or -signal.SIGKILL)
        self._ended.set()


def start_module(
    command: Sequence[str],
    env: Mapping[str, str],
    output: IO[bytes],
    errors: IO[bytes] | None = None,
    stdin: int = subprocess.PIPE,
    server: ForkServer | None = None,
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Start ``python -m`` with the words of ``command`` in a session and process group of its own.

    ``errors`` None: to ``output``. ``stdin``: ``PIPE`` or ``DEVNULL``. A new process where ``server`` cannot fork it.
    """
    pipe = None
    if server is not None and server.is_for(env):
        source, sink = os.pipe() if stdin == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), None)
        pipe = None if sink is None else os.fdopen(sink, "wb")
        answers = server.request(command, env, [source, output.fileno(), (errors or output).fileno()])
        os.close(source)
        if pid := answers.readline():
            return ForkedProcess(int(pid), pipe, answers)
        answers.close()
    if pipe is not None:
        pipe.close()
    errors = errors or output
    argv = [sys.executable, "-m", *command]
    return subprocess.Popen(argv, stdin=stdin, stdout=output, stderr=errors, env=env, start_new_session=True)


class ForkServer:
    """Imports ``modules``, starts with the first job or with :meth:`start`, and ends with this process."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._modules, self._environment = modules, dict(environment)
        self._lock = threading.Lock()
        self._requests, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Without waiting for its imports."""
        with self._lock, self._theirs as theirs:
            if self.process is None:
                module, number = "lcl_core.common.fork_server", str(theirs.fileno())
                self.process = subprocess.Popen(
                    [sys.executable, "-m", module, number, *self._modules, _ROOM],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def is_for(self, env: Mapping[str, str]) -> bool:
        """Whether a job with this environment can be forked: no library may have read what differs."""
        return sys.platform == "linux" and all(name.startswith(_FREE) for name in self._changes(env))

    def request(self, command: Sequence[str], env: Mapping[str, str], standard: Sequence[int]) -> IO[str]:
        """Pipe with the process id and the exit status; empty: the server has died."""
        reading, writing = os.pipe()
        with suppress(OSError):
            self.start()
            message = json.dumps([*command, self._changes(env), os.getcwd()]).encode()
            socket.send_fds(self._requests, [message], [*standard, writing])
        os.close(writing)
        return os.fdopen(reading)

    def _changes(self, env: Mapping[str, str]) -> dict[str, str | None]:
        return {name: env.get(name) for name, _ in env.items() ^ self._environment.items()}


def _serve(requests: socket.socket) -> list[Any]:
    """Fork a process for each request until the owner has ended. Returns: in each child its request."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:  # a job has ended
                pid, report = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                _report(report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 4)
            if not message:
                sys.exit()
            *standard, report = descriptors
            pid = os.fork()
            if pid == 0:
                os.setsid()
                for number, descriptor in enumerate(standard):
                    os.dup2(descriptor, number)
                _report(report, os.getpid())  # its owner may signal the group from now on
                open_until = max(report, *(each.fd for each in selector.get_map().values())) + 1
                selector.close()  # a collected selector or socket would close a descriptor that the job has by then
                requests.close()
                os.closerange(3, open_until)
                return list(json.loads(message))
            for descriptor in standard:
                os.close(descriptor)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))


def _report(descriptor: int, number: int) -> None:
    with suppress(OSError):  # its owner has ended
        os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)


def _become(command: Sequence[str], changes: Mapping[str, str | None], directory: str) -> None:
    """Turn this fork into the process that ``python -m`` would start, as far as that can be distinguished."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(directory)
    sys.path[0], sys.argv, sys.orig_argv = directory, [*command], [sys.executable, "-m", *command]
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    start, room = int(fields[45]), int(fields[46]) - int(fields[45])  # of the command line, which ps shows
    line = "\0".join(sys.orig_argv).encode("utf-8", "surrogateescape")[: room - 1]
    ctypes.memmove(start, line.ljust(room, b"\0"), room)
    importlib.invalidate_caches()
    libraries: Any = sys.modules  # whose generators a new process seeds from the system's entropy
    random.seed()
    if "numpy.random" in libraries:
        libraries["numpy.random"].seed()
    if "torch" in libraries:
        libraries["torch"].default_generator.seed()


def main() -> None:
    number, *modules, _ = sys.argv[1:]
    requests = socket.socket(fileno=int(number))
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a child's collector writes to no page of what was imported
    *command, changes, directory = _serve(requests)
    _become(command, changes, directory)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
