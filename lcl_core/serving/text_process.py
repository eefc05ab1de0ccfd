"""Vectors of texts from a second process, while many are asked for.

PyTorch gives up Python's lock with each of the hundred operations that a short text takes, and has to win it back from
the threads that serve requests: half the time of both goes by with waiting for one another. A service that is asked
little does without, and saves the memory.
"""

from __future__ import annotations

import json
import logging
import os
import select
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from lcl_core.common.process_env import without_secrets
from lcl_core.encoders.file_hashes import hash_files, identity_hash

if TYPE_CHECKING:
    from lcl_core.serving.engine import EncoderEngine

log = logging.getLogger(__name__)

BUSY_TEXTS = 32  # texts within a second, from which on the process is worth its memory
REPLY_SECONDS = 60.0  # of a process that was asked something: it hangs
MAX_FAILURES = 3
FAILED = 2**32 - 1  # instead of a number of rows
LENGTH, SHAPE = struct.Struct("<I"), struct.Struct("<II")
READY = b"\n"


class TextEncoderProcess:
    """``embed_texts`` of a session. For one thread at a time.

    Until many texts are asked for, until the process that is then started is ready, and whenever it fails, the session
    itself reads them: nobody waits for the process, and no request fails by it.

    Args:
        session: on the CPU.
        busy: texts within a second that count as many.
        clock: seconds that only grow.
    """

    def __init__(
        self, session: EncoderEngine, *, busy: int = BUSY_TEXTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        self._busy = busy
        self._clock = clock
        self._second, self._count = clock(), 0
        self._deaths = 0
        self._process: _ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, if it is there and ready."""
        return self._process.pid if self._process is not None and self._process.ready else None

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """f32 [n, E], L2-normalised. Raises: as the session's."""
        if self._process is None and self._is_busy(len(texts)) and self._deaths < MAX_FAILURES:
            self._process = _ChildProcess(self._session)
        vectors = self._asked(texts)
        return self._session.embed_texts(texts) if vectors is None else vectors

    def _asked(self, texts: Sequence[str]) -> np.ndarray | None:
        """None: the session is to do it."""
        if self._process is None:
            return None
        try:
            return self._process.embed(texts) if self._process.greeted() else None
        except (OSError, EOFError) as error:
            self._deaths += 1
            log.warning("the process that reads texts is gone (%s); they are read here", error)
            self._process.end()
            self._process = None
            return None

    def _is_busy(self, more: int) -> bool:
        now = self._clock()
        if now - self._second > 1:
            self._second, self._count = now, 0
        self._count += more
        return self._count >= self._busy


class _ChildProcess:
    """``python -m lcl_core.serving.text_process_main``; it ends with this object, and with this process."""

    def __init__(self, session: EncoderEngine) -> None:
        identity = identity_hash(session.file_hashes or hash_files(session.directory))
        command = [
            sys.executable,
            "-m",
            "lcl_core.serving.text_process_main",
            str(session.directory),
            session.precision,
            identity,
        ]
        # half the processors: the others serve what the texts are wanted for; and no secrets
        threads = str(max(1, (os.cpu_count() or 1) // 2))
        known = without_secrets(os.environ)
        environment = {name: value for name, value in known.items() if not name.startswith("LCL_")}
        environment |= {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        self.pid, self.ready = self._child.pid, False
        self._out, self._in = cast(BinaryIO, self._child.stdin), cast(BinaryIO, self._child.stdout)
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self.end = weakref.finalize(self, _terminate, self._child)

    def greeted(self) -> bool:
        """Whether its encoder is loaded. Raises: EOFError if it could not be."""
        if not self.ready and self._poll.poll(0):
            self.ready = self._read(len(READY)) == READY
        return self.ready

    def embed(self, texts: Sequence[str]) -> np.ndarray | None:
        """None: it cannot read these. Raises: OSError, EOFError when it is gone or silent."""
        asked = json.dumps(list(texts)).encode()
        self._write(LENGTH.pack(len(asked)) + asked)
        rows, width = SHAPE.unpack(self._read(SHAPE.size))
        if rows == FAILED:
            return None
        return np.frombuffer(self._read(4 * rows * width), np.float32).reshape(rows, width)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._out.write(left) or 0 :]

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            if not self._poll.poll(REPLY_SECONDS * 1000):
                raise EOFError(f"silent for {REPLY_SECONDS:.0f} s")
            part = self._in.read(size - len(parts))
            if not part:
                raise EOFError("it has ended")
            parts += part
        return bytes(parts)


def _terminate(child: subprocess.Popen[bytes]) -> None:
    child.kill()  # it keeps nothing
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
