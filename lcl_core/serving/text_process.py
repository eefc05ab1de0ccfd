"""Text encoding in a second process, while many texts are requested.

PyTorch releases Python's lock with each of the hundred operations that a short text takes, and has to win it back from
the threads that serve requests: both lose half of their time. A service with few requests does without the process, and
saves its memory.

The process is ``python -m lcl_core.serving.text_process DIRECTORY PRECISION IDENTITY``. Standard input: length and JSON
of a list of texts, repeatedly. Standard output: a line end once the encoder is loaded, then for each list its rows,
their width and f32 vectors. It ends with its input, and at once where the files of the encoder have another identity.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from lcl_core import encoders
from lcl_core.common.process_env import without_secrets
from lcl_core.common.system_errors import as_exception
from lcl_core.common.threads import usable_cores
from lcl_core.encoders.file_hashes import identity_hash

if TYPE_CHECKING:
    from lcl_core.encoders.engine import EncoderEngine

log = logging.getLogger(__name__)

BUSY_TEXTS = 32  # texts within a second, from which on the process is worth its memory
REPLY_SECONDS = 60.0  # without a reply the process hangs
MAX_FAILURES = 3
START_PAUSE_SECONDS = 10.0  # after the system refused to start a process: at its limit, or without memory
FAILED = 2**32 - 1  # instead of a number of rows
LENGTH, SHAPE = struct.Struct("<I"), struct.Struct("<II")
READY = b"\n"


class TextEncoderProcess:
    """``embed_texts`` of an engine. For one thread at a time.

    Until many texts are requested, until the process that is then started is ready, and whenever it fails, the engine
    itself reads them: no request waits for the process, and none fails by it.

    Args:
        engine: on the CPU.
        busy: texts within a second that count as many.
        clock: monotonic seconds.
    """

    def __init__(
        self, engine: EncoderEngine, *, busy: int = BUSY_TEXTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._busy = busy
        self._clock = clock
        self._second, self._count = clock(), 0
        self._failures = 0
        self._start_after = self._second
        self._process: _ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, if it is ready."""
        return self._process.pid if self._process is not None and self._process.ready else None

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as the engine's."""
        vectors = self._embed_in_process(texts)
        return self._engine.embed_texts(texts) if vectors is None else vectors

    def _embed_in_process(self, texts: Sequence[str]) -> np.ndarray | None:
        """None: the engine has to embed them."""
        if self._process is None and not self._start(len(texts)):
            return None
        assert self._process is not None, "it was started"
        try:
            return self._process.embed(texts) if self._process.is_ready() else None
        except (OSError, EOFError) as error:
            self._failures += 1
            log.warning("the process that reads texts is gone (%s); they are read here", error)
            self._process.end()
            self._process = None
            return None

    def _start(self, texts: int) -> bool:
        """Start the process if so many more texts are worth it. Returns: whether there is one."""
        if not self._is_busy(texts) or self._failures >= MAX_FAILURES or self._clock() < self._start_after:
            return False
        try:
            self._process = _ChildProcess(self._engine)
        except OSError as error:
            self._failures += 1
            self._start_after = self._clock() + START_PAUSE_SECONDS
            log.warning("no process can be started to read texts (%s); they are read here", error)
            return False
        return True

    def _is_busy(self, more: int) -> bool:
        now = self._clock()
        if now - self._second > 1:
            self._second, self._count = now, 0
        self._count += more
        return self._count >= self._busy


class _ChildProcess:
    """``python -m lcl_core.serving.text_process``; it ends with this object, and with this process."""

    def __init__(self, engine: EncoderEngine) -> None:
        identity = identity_hash(engine.file_hashes)
        module = "lcl_core.serving.text_process"
        command = [sys.executable, "-m", module, str(engine.directory), engine.precision, identity]
        threads = str(max(1, usable_cores() // 2))  # the other cores serve the requests
        variables = without_secrets(os.environ)
        environment = {name: value for name, value in variables.items() if not name.startswith("LCL_")}
        environment |= {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        self.pid, self.ready = self._child.pid, False
        self._out, self._in = cast(BinaryIO, self._child.stdin), cast(BinaryIO, self._child.stdout)
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self.end = weakref.finalize(self, _terminate, self._child)

    def is_ready(self) -> bool:
        """Whether its encoder is loaded. Raises: EOFError if it could not be."""
        if not self.ready and self._poll.poll(0):
            self.ready = self._read(len(READY)) == READY
        return self.ready

    def embed(self, texts: Sequence[str]) -> np.ndarray | None:
        """None: it cannot read these. Raises: OSError, EOFError when it is gone or does not reply."""
        request = json.dumps(list(texts)).encode()
        self._write(LENGTH.pack(len(request)) + request)
        rows, width = SHAPE.unpack(self._read(SHAPE.size))
        if rows == FAILED:
            return None
        return np.frombuffer(self._read(4 * rows * width), np.float32).reshape(rows, width)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._out.write(rest) or 0 :]

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            if not self._poll.poll(REPLY_SECONDS * 1000):
                raise EOFError(f"no reply for {REPLY_SECONDS:.0f} s")
            part = self._in.read(size - len(parts))
            if not part:
                raise EOFError("it has ended")
            parts += part
        return bytes(parts)


def _terminate(child: subprocess.Popen[bytes]) -> None:
    child.kill()  # it has no state to save
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def main() -> None:
    """The child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the service, with which this ends
    directory, precision, identity = sys.argv[1:]
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not break the protocol
    engine = encoders.open_engine(Path(directory), "cpu", cast(Any, precision))
    if identity_hash(engine.file_hashes) != identity:
        sys.exit("the files of the encoder changed since the service loaded it")
    engine.drop_vision()
    replies.write(READY)
    while head := sys.stdin.buffer.read(LENGTH.size):
        replies.write(_reply(engine, sys.stdin.buffer.read(*LENGTH.unpack(head))))


def _reply(engine: EncoderEngine, request: bytes) -> bytes:
    try:
        vectors = engine.embed_texts(json.loads(request))
    except BaseException as caught:  # a Rust panic is no Exception; the service's own engine reports the failure
        log.warning("texts could not be read: %r", as_exception(caught))
        return SHAPE.pack(FAILED, 0)
    return SHAPE.pack(*vectors.shape) + vectors.tobytes()


if __name__ == "__main__":
    main()
