"""Fork server: a process that has imported a job's libraries and forks a child for each job.

:class:`ForkServer` owns the server process; :func:`lcl_core.common.forked_process.start_module` is its client. A forked
job computes bitwise what ``python -m MODULE`` computes: the server starts no threads and initialises no device, and it
refuses a job whose environment differs in a variable that a library may have read when it was loaded.

Linux only. Uses the standard library alone.

Protocol, one connection a job, JSON lines: the server sends ``{"ready": …}``, the client one request with the three
standard descriptors, the child ``{"pid": …}`` from its own session, the server ``{"status": …}`` at the child's end, or
``{"refused": …}``. The child stays a zombie until the client closes, so its number is not given to another process.
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
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

AVAILABLE = sys.platform == "linux"
MAX_REQUEST = 4 << 20  # bytes; an environment is limited to less by the kernel's default
READY = ".ready"  # beside the socket: a file that exists while the server serves
_REQUEST_SECONDS = 10.0
_RESTART_SECONDS = 5.0
_TITLE = "-" * 512  # last argument of the server: room for the command line of a job
# Variables that a job may have to itself: read when they are used. Any other may be read when a library is loaded.
FREE_PREFIXES = ("LCL_", "AWS_", "GOOGLE_", "GCS_", "AZURE_")
FREE_NAMES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}
FREE_NAMES |= {"GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES", "PWD", "OLDPWD", "SHLVL", "COLUMNS", "LINES", "_"}
FREE_NAMES |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}  # read at the first product
FREE_NAMES |= {"TORCHINDUCTOR_CACHE_DIR"}  # which torch sets when its compiler is imported
FREE_NAMES |= {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TOKENIZERS_PARALLELISM"}  # they change no result


class ForkServer:
    """Starts the server process at the first connection, and again after its death or a change of its source files.

    Its socket is in a folder of mode 0700. The server ends with this object, or with this process.

    Args:
        modules: to import.
        environment: of the server; a job's may differ in the variables of ``FREE_NAMES`` and ``FREE_PREFIXES``.
        free: more prefixes of such variables.
        shared: other processes of the user may connect. Otherwise none but this one may, so that a confined process,
            which reads untrusted input, cannot start one without limits.
    """

    def __init__(
        self,
        modules: Collection[str],
        environment: Mapping[str, str],
        free: Collection[str] = (),
        shared: bool = False,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix="lcl-fork-")
        self.address = os.path.join(self._folder, "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(64)
        self._arguments = [str(self._listener.fileno()), str(int(shared)), json.dumps([*free]), *modules, _TITLE]
        self._environment = dict(environment)
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_running, name="fork server", daemon=True)
        self._thread.start()

    def prepare(self) -> None:
        """Start the server without waiting for it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.address)

    @property
    def pid(self) -> int | None:
        """Of the server process, if there is one."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def close(self) -> None:
        self._closing.set()
        self._wake.send(b"\0")
        if self._process is not None:
            self._process.kill()
        self._thread.join()
        for each in (self._listener, self._wake, self._woken):
            each.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_running(self) -> None:
        while not self._closing.is_set():
            select.select([self._listener, self._woken], [], [])
            if self._closing.is_set():
                return
            with contextlib.suppress(OSError), self._start() as self._process:  # which closes its standard input
                if self._closing.is_set():
                    self._process.kill()
                self._process.wait()
            Path(self.address + READY).unlink(missing_ok=True)
            self._closing.wait(_RESTART_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "lcl_core.common.fork_server", *self._arguments],
            env=self._environment,
            stdin=subprocess.PIPE,  # closes with this process
            stdout=subprocess.DEVNULL,
            pass_fds=(self._listener.fileno(),),
            start_new_session=True,
        )


@dataclass
class ForkRequest:
    """What a client sends: ``python -m module arguments…`` with this environment and working directory."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    umask: int
    descriptors: Collection[int] = ()  # standard input, output and error

    def send(self, connection: socket.socket, descriptors: list[int]) -> None:
        text = json.dumps([self.module, self.arguments, self.environment, self.directory, self.umask]).encode()
        socket.send_fds(connection, [len(text).to_bytes(4, "big")], descriptors)
        connection.sendall(text)

    @classmethod
    def receive(cls, connection: socket.socket) -> ForkRequest | None:
        """None: the client has left. Raises: OSError, ValueError."""
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        if not head:
            return None
        with connection.makefile("rb") as stream:
            size = int.from_bytes(head, "big")
            if size > MAX_REQUEST:
                raise ValueError(size)
            module, arguments, environment, directory, umask = json.loads(stream.read(size))
        return cls(module, arguments, environment, directory, umask, descriptors)


_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)  # by the server otherwise than by its jobs


class LoadedLibraries:
    """The environment in which this process imported its libraries, and how a fork of it becomes another process.

    Args:
        environment: before the imports.
        handlers: of signals, at the start of this process, which inherited what is ignored.
        free: prefixes of variables that a fork may have to itself, beside ``FREE_PREFIXES``.
    """

    def __init__(self, environment: Mapping[str, str], handlers: Mapping[int, Any], free: Collection[str]) -> None:
        self._environment = environment
        self._handlers = handlers
        self._free = (*FREE_PREFIXES, *free)
        # what the imports changed in the environment, they would have changed in the job's
        self._changed = {name: value for name, value in os.environ.items() if environment.get(name) != value}

    def differs_in(self, environment: Mapping[str, str]) -> str | None:
        """A variable that differs and that a library may have read, or None."""
        for name in sorted(self._environment.keys() | environment.keys()):
            free = name in FREE_NAMES or name.startswith(self._free)
            own = self._environment.get(name)
            if not free and environment.get(name) not in (own, self._changed.get(name, own)):
                return name
        return None

    def become(self, request: ForkRequest) -> None:
        """Turn this fork into the process that ``python -m`` would start, as far as that can be distinguished."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for standard, descriptor in enumerate(request.descriptors):
            os.dup2(descriptor, standard)
            if descriptor > 2:
                os.close(descriptor)
        os.environ.clear()
        os.environ.update(request.environment)
        os.environ.update(self._changed)
        os.chdir(request.directory)
        os.umask(request.umask)
        sys.path[0] = request.directory
        sys.argv = [request.module, *request.arguments]
        sys.orig_argv = [sys.executable, "-m", *sys.argv]
        _set_command_line(sys.orig_argv)
        importlib.invalidate_caches()
        multiprocessing.current_process().authkey = os.urandom(32)
        _seed_generators()


@dataclass
class _Child:
    pid: int
    connection: socket.socket | None  # None: the client has left
    ended: bool = False


class _Server:
    """Serves in the main thread.

    Args:
        client: the process that may connect; None: any of the user.
    """

    def __init__(self, listener: socket.socket, loaded: LoadedLibraries, client: int | None) -> None:
        self._listener = listener
        self._client = client
        self._loaded = loaded
        self._children: dict[int, _Child] = {}  # by process
        self._selector = selectors.DefaultSelector()
        self._files = {file: _modified_at(file) for file in _source_files()}
        self._stale = False

    def serve(self, owner: int) -> ForkRequest | None:
        """Serve until the descriptor ``owner`` closes. Returns: None; in each child its request."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        Path(self._listener.getsockname() + READY).touch()
        for source in (owner, woken, self._listener):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == owner:  # the folder, which its owner did not remove
                    shutil.rmtree(os.path.dirname(self._listener.getsockname()), ignore_errors=True)
                    return None
                request = None
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                else:
                    request = self._read(key.fileobj)  # type: ignore[arg-type]
                if request is not None:  # this is the child
                    self._close(owner, woken, wake)
                    return request
            self._reap()
            if self._stale and not self._children:
                return None  # the owner starts another

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the client has left, or too many files are open
            return
        connection.settimeout(_REQUEST_SECONDS)
        try:
            if self._client not in (None, _peer(connection)):
                raise PermissionError
            connection.sendall(b'{"ready": true}\n')
            self._selector.register(connection, selectors.EVENT_READ)
        except OSError:
            connection.close()

    def _read(self, connection: socket.socket) -> ForkRequest | None:
        """A client's request, or its end. Returns: the request in the child, None in the server."""
        child = next((child for child in self._children.values() if child.connection is connection), None)
        if child is not None:
            child.connection = None
            self._drop(connection)
            return None
        try:
            request = ForkRequest.receive(connection)
        except (OSError, ValueError, TypeError):
            request = None
        if request is None:
            self._drop(connection)
            return None
        try:
            refusal = self._refusal(request)
            pid = -1 if refusal else os.fork()
        except OSError as error:
            refusal, pid = str(error), -1
        if pid == 0:
            os.setsid()
            self._loaded.become(request)
            _send(connection, {"pid": os.getpid()})  # the client may signal the group from now on
            return request
        for descriptor in request.descriptors:
            os.close(descriptor)
        if refusal is None:
            self._children[pid] = _Child(pid, connection)
        else:
            _send(connection, {"refused": refusal})
            self._drop(connection)
        return None

    def _refusal(self, request: ForkRequest) -> str | None:
        if len(request.descriptors) != 3:
            return "the request has no standard descriptors"
        if (name := self._loaded.differs_in(request.environment)) is not None:
            return f"{name} differs"
        if any(_modified_at(file) != then for file, then in self._files.items()):
            self._stale = True
            return "a source file has changed"
        return None

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if not child.ended:
                ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None:
                    child.ended = True
                    status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                    if child.connection is not None:
                        _send(child.connection, {"status": status})
            if child.ended and child.connection is None:
                os.waitpid(child.pid, 0)
                del self._children[child.pid]

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _close(self, owner: int, *more: socket.socket) -> None:
        """In a child: close what is the server's."""
        for key in list(self._selector.get_map().values()):
            if key.fileobj != owner:
                key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        os.close(owner)
        for each in more:
            each.close()


def _source_files() -> set[str]:
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {file for file in files if isinstance(file, str)}


def _modified_at(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0


def _peer(connection: socket.socket) -> int:
    """The process that connected."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the client has left
        connection.sendall(json.dumps(message).encode() + b"\n")


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


inherited: LoadedLibraries | None = None  # in a job that a server forked


def fork_again(request: ForkRequest, close: Collection[IO[bytes]]) -> int:
    """Fork a job that a server forked, while it has one thread: the child runs another module in its group.

    Args:
        close: files of this process that the child must not keep open.

    Returns: the process id of the child.
    """
    assert inherited is not None
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        return pid
    status: object = 1
    try:
        for file in close:
            file.close()
        inherited.become(request)
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # the end of this process: as the interpreter reports it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def main() -> None:
    number, shared, free, *modules, _ = sys.argv[1:]
    client = None if int(shared) else os.getppid()
    environment = dict(os.environ)
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in _HANDLED}
    for ignored in (signal.SIGINT, signal.SIGTERM):  # it ends with its owner
        signal.signal(ignored, signal.SIG_IGN)
    owner = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    for module in modules:
        importlib.import_module(module)
    if threading.active_count() > 1:
        sys.exit("a library has started threads, which a forked process would lack")
    gc.collect()
    gc.freeze()  # a child's collector writes to no page of what was imported
    loaded = LoadedLibraries(environment, handlers, json.loads(free))
    request = _Server(listener, loaded, client).serve(owner)
    if request is not None:
        global inherited
        inherited = loaded
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    from lcl_core.common import fork_server

    fork_server.main()  # not this copy of the module, so that a job finds ``inherited``
