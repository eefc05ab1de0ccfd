"""Subprocess for untrusted input: memory, CPU time, file size and open files limited, no network.

:func:`run_sandboxed` starts ``python -m MODULE`` through this module, which applies the limits before it imports
MODULE. Uses the standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any

from lcl_core.common.processes import allowed_environment

MAX_OUTPUT = 1 << 20  # bytes that the process may write to either stream
KILLED_FOR_MEMORY = "it needs more memory than its weights account for"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of one process."""

    seconds: float  # of wall clock, after which its process group is killed; also the limit of its CPU time
    memory: int = 64 << 30  # of address space; the module calls ``limit_memory`` once its libraries are loaded
    written: int = MAX_OUTPUT  # bytes of the largest file that it may write
    open_files: int = 256


@dataclass(frozen=True)
class SandboxResult:
    """Exit status (negative: of a signal; None: timeout), standard output and standard error."""

    status: int | None
    output: bytes
    error: str

    @property
    def reason(self) -> str:
        """Why the process was ended or failed, in words for the user."""
        if self.status is None:
            return "it takes too long"
        if self.status == -signal.SIGXCPU:
            return "it takes too much processor time"
        words = ("MemoryError", "alloc", "memory", "std::bad_alloc")
        if self.status in (-signal.SIGKILL, -signal.SIGABRT) or any(word in self.error[-2000:] for word in words):
            return KILLED_FOR_MEMORY
        return "the process that reads it broke down"


def run_sandboxed(module: str, arguments: Sequence[str], limits: SandboxLimits) -> SandboxResult:
    """Run ``python -m module arguments…`` without secrets and wait. On return no process of its group is left."""
    command = [sys.executable, "-m", "lcl_core.common.sandbox", json.dumps(asdict(limits)), module, *arguments]
    threads = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false"}
    environment = allowed_environment(os.environ) | threads | {"CUDA_VISIBLE_DEVICES": ""}
    # files, not pipes: the limit on written files bounds the output
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return SandboxResult(status, _read_tail(out), _read_tail(err).decode("utf-8", "replace"))


def _read_tail(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_OUTPUT))
    return file.read(MAX_OUTPUT)


def limit_memory(more: int) -> None:
    """Limit this process to ``more`` bytes of address space beyond its present ones, for good."""
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    _lower_limit(resource.RLIMIT_AS, present + more)


def apply_limits(limits: SandboxLimits) -> None:
    """Apply the limits to this process, for good."""
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_CPU, int(limits.seconds) + 1)
    _lower_limit(resource.RLIMIT_FSIZE, limits.written)
    _lower_limit(resource.RLIMIT_NOFILE, limits.open_files)
    _lower_limit(resource.RLIMIT_AS, limits.memory)
    # A new network namespace has no interfaces. An unprivileged process needs a user namespace as well; where the
    # kernel permits neither, only the audit hook applies.
    libc: Any = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(AttributeError):  # another system than Linux
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.unshare(_CLONE_NEWNET) and os.getuid():
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    sys.addaudithook(_refuse_network)


def _lower_limit(kind: int, bound: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(kind, (bound, bound))


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise PermissionError(f"{event}: this process has no network")


def main() -> None:
    limits, module, *arguments = sys.argv[1:]
    apply_limits(SandboxLimits(**json.loads(limits)))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
