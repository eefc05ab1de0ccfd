"""``python -m MODULE`` as a fork of a process that has imported its libraries, or as a new process.

:class:`ForkServer` owns the server process; :func:`start_module` is its client. A forked job computes bitwise what
``python -m MODULE`` computes: the server starts no threads and initialises no device, and it refuses a job whose
environment differs in a variable that a library may have read when it was loaded. Forks are made on Linux alone.

Protocol, one connection a job, JSON lines: the server sends ``{"ready": …}``, the client one request with the three
standard descriptors, the child ``{"pid": …}`` from its own session, the server ``{"status": …}`` at the child's end, or
``{"refused": …}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import random
import runpy
import select
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

AVAILABLE = sys.platform == "linux"
_MAX_REQUEST = 4 << 20  # bytes; an environment is limited to less by the kernel's default
# in which a server that serves replies. While it still imports, a new process is as quick
_READY_SECONDS = 1.0
_REQUEST_SECONDS = 10.0
_TITLE = "-" * 512  # last argument of the server: room for the command line of a job
# Variables that a job may have to itself: read when they are used. Any other may be read when a library is loaded.
FREE_PREFIXES = ("LCL_", "AWS_", "GOOGLE_", "GCS_", "AZURE_", "PYTEST_")
FREE_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
FREE_NAMES |= {"GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES", "_"}
FREE_NAMES |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}  # read at the first product
FREE_NAMES |= {"TORCHINDUCTOR_CACHE_DIR"}  # which torch sets when its compiler is imported
FREE_NAMES |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TOKENIZERS_PARALLELISM"}  # they change no result


class ForkServer:
    """Starts the server process at the first connection. After its death jobs are new processes.

    Its socket is in a folder of mode 0700. The server ends with this object, or with this process.

    Args:
        modules: to import.
        environment: of the server; a job's may differ in the variables of ``FREE_NAMES`` and ``FREE_PREFIXES``.
        shared: other processes of the user may connect. Otherwise none but this one may, so that a confined process,
            which reads untrusted input, cannot start one without limits.
    """

    def __init__(self, modules: Collection[str], environment: Mapping[str, str], *, shared: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="lcl-fork-")
        self.address = os.path.join(self._folder, "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._arguments = [str(self._listener.fileno()), str(int(shared)), *modules, _TITLE]
        self._environment = dict(environment)
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="fork server", daemon=True)
        self._thread.start()

    def prepare(self) -> None:
        """Start the server without waiting for it."""
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.connect(self.address)

    def close(self) -> None:
        self._closing = True
        if self._process is None:
            self.prepare()  # the thread waits for a connection
        else:
            self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        select.select([self._listener], [], [])
        if not self._closing:
            with subprocess.Popen(
                [sys.executable, "-m", "lcl_core.common.fork_server", *self._arguments],
                env=self._environment,
                stdin=subprocess.PIPE,  # closes with this process
                stdout=subprocess.DEVNULL,
                pass_fds=(self._listener.fileno(),),
                start_new_session=True,
            ) as self._process:
                if self._closing:
                    self._process.kill()
                self._process.wait()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class ForkedProcess:
    """The part of :class:`subprocess.Popen` that a supervisor needs, for a child of a fork server. Thread-safe.

    When the server dies before it reported the exit status, the process group is killed and counts as killed.

    Attributes:
        stdin: the write end of its standard input, if that is a pipe.
        returncode: None while it runs; negative: the signal that ended it.
    """

    def __init__(self, pid: int, stdin: IO[bytes] | None, connection: socket.socket) -> None:
        self.pid, self.stdin = pid, stdin
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_status, args=(connection,), name=f"process {pid}", daemon=True).start()

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
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await_status(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.returncode = _receive(connection).get("status")
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.returncode = -signal.SIGKILL
        self._ended.set()


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
    request = _Request(module, list(arguments), dict(env), os.getcwd())
    connection = socket.socket(socket.AF_UNIX)
    pipe: IO[bytes] | None = None
    try:
        with open(os.devnull, "r+b", buffering=0) as null, contextlib.ExitStack() as stack:
            source: IO[bytes] = null
            if stdin == subprocess.PIPE:
                reading, writing = os.pipe()
                source, pipe = stack.enter_context(os.fdopen(reading, "rb")), os.fdopen(writing, "wb")
            target = null if isinstance(output, int) else output
            connection.settimeout(_READY_SECONDS)
            connection.connect(server)  # which starts the server
            if _receive(connection):
                connection.settimeout(None)
                request.send(connection, [source.fileno(), target.fileno(), (errors or target).fileno()])
                return ForkedProcess(int(_receive(connection)["pid"]), pipe, connection)
    except (OSError, KeyError):  # it is not there, still imports, or refuses
        pass
    connection.close()
    if pipe is not None:
        pipe.close()
    return None


def _receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; empty at the end of the connection. Raises: OSError."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows stays readable
        byte = connection.recv(1)
        if not byte:
            return {}
        line += byte
    return dict(json.loads(line))


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the client has left
        connection.sendall(json.dumps(message).encode() + b"\n")


class _Request(NamedTuple):
    """What a client sends: ``python -m module arguments…`` with this environment and working directory."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    descriptors: Sequence[int] = ()  # standard input, output and error

    def send(self, connection: socket.socket, descriptors: Sequence[int]) -> None:
        socket.send_fds(connection, [b"\n"], descriptors)
        _send(connection, {"request": self[:4]})

    @classmethod
    def receive(cls, connection: socket.socket) -> _Request:
        """Raises: OSError, ValueError."""
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as stream:
            request = json.loads(stream.readline(_MAX_REQUEST))["request"]
        if len(descriptors) != 3:
            raise ValueError("the request has no standard descriptors")
        module, arguments, environment, directory = request
        return cls(module, arguments, environment, directory, descriptors)


_HANDLED = (signal.SIGINT, signal.SIGTERM)  # by the server otherwise than by its jobs


class _Server:
    """Serves in the main thread, with the libraries that it has imported.

    Args:
        client: the process that may connect; None: any of the user.
        environment: before the imports.
        handlers: of signals, at the start of this process, which inherited what is ignored.
    """

    def __init__(
        self,
        listener: socket.socket,
        client: int | None,
        environment: Mapping[str, str],
        handlers: Mapping[signal.Signals, Any],
    ) -> None:
        self._listener, self._client = listener, client
        self._environment, self._handlers = environment, handlers
        # what the imports changed in the environment, they would have changed in the job's
        self._changed = {name: value for name, value in os.environ.items() if environment.get(name) != value}
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        self._sources = {file: _modified_at(file) for file in files if isinstance(file, str)}
        self._selector = selectors.DefaultSelector()

    def serve(self, owner: int) -> _Request | None:
        """Serve until the descriptor ``owner`` closes. Returns: None; in each child its request."""
        self._selector.register(owner, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == owner:  # the folder, which its owner did not remove
                    shutil.rmtree(os.path.dirname(self._listener.getsockname()), ignore_errors=True)
                    return None
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    request = self._answer(key.fileobj)
                    if request is not None:  # this is the child
                        return request
                else:
                    self._report_end(key.fd, *key.data)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the client has left, or too many files are open
            connection, _ = self._listener.accept()
            connection.settimeout(_REQUEST_SECONDS)
            size = struct.calcsize("3i")
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            if self._client in (None, pid):
                _send(connection, {"ready": True})
                self._selector.register(connection, selectors.EVENT_READ)
            else:
                connection.close()

    def _answer(self, connection: socket.socket) -> _Request | None:
        """Fork what a client requests. Returns: the request in the child, None in the server."""
        self._selector.unregister(connection)
        try:
            request = _Request.receive(connection)
        except (OSError, ValueError, TypeError, KeyError):  # the client has left
            connection.close()
            return None
        refusal, pid = self._refusal(request), -1
        try:
            pid = os.fork() if refusal is None else -1
        except OSError as error:
            refusal = str(error)
        if pid == 0:
            os.setsid()
            self._become(request)
            _send(connection, {"pid": os.getpid()})  # the client may signal the group from now on
            connection.close()
            return request
        for descriptor in request.descriptors:
            os.close(descriptor)
        if refusal is None:
            self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
        else:
            _send(connection, {"refused": refusal})
            connection.close()
        return None

    def _report_end(self, descriptor: int, pid: int, connection: socket.socket) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        with connection:
            _send(connection, {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})

    def _refusal(self, request: _Request) -> str | None:
        for name in sorted(self._environment.keys() | request.environment.keys()):
            free = name in FREE_NAMES or name.startswith(FREE_PREFIXES)
            own = self._environment.get(name)
            if not free and request.environment.get(name) not in (own, self._changed.get(name, own)):
                return f"{name} differs, and a library may have read it"
        if any(_modified_at(file) != then for file, then in self._sources.items()):
            return "a source file has changed"
        return None

    def _become(self, request: _Request) -> None:
        """Turn this fork into the process that ``python -m`` would start, as far as that can be distinguished."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
                if key.data is not None:
                    key.data[1].close()
        self._selector.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for standard, descriptor in enumerate(request.descriptors):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request.environment)
        os.environ.update(self._changed)
        os.chdir(request.directory)
        sys.path[0] = request.directory
        sys.argv = [request.module, *request.arguments]
        sys.orig_argv = [sys.executable, "-m", *sys.argv]
        _set_command_line(sys.orig_argv)
        importlib.invalidate_caches()
        multiprocessing.current_process().authkey = os.urandom(32)
        _seed_generators()


def _modified_at(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0


def _seed_generators() -> None:
    """Each from the system's entropy, as a new process seeds them."""
    random.seed()
    libraries: Any = sys.modules
    if "numpy.random" in libraries:
        libraries["numpy.random"].seed()
    if "torch" in libraries:
        libraries["torch"].default_generator.seed()  # not torch.seed, which concerns devices too


def _set_command_line(words: Collection[str]) -> None:
    """What ``ps`` shows, cut to the room that the server's own command line left."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end
    text = "\0".join(words).encode("utf-8", "surrogateescape")[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def main() -> None:
    listening, shared, *modules, _ = sys.argv[1:]
    client = None if int(shared) else os.getppid()
    environment, handlers = dict(os.environ), {number: signal.getsignal(number) for number in _HANDLED}
    for ignored in _HANDLED:  # it ends with its owner
        signal.signal(ignored, signal.SIG_IGN)
    owner = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    listener = socket.socket(fileno=int(listening))
    listener.set_inheritable(False)
    for module in modules:
        importlib.import_module(module)
    if threading.active_count() > 1:
        sys.exit("a library has started threads, which a forked process would lack")
    gc.collect()
    gc.freeze()  # a child's collector writes to no page of what was imported
    request = _Server(listener, client, environment, handlers).serve(owner)
    if request is not None:
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
