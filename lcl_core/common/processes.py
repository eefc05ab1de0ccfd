"""Child processes: environment without secrets, threads, end with their parent, and where the ranks of a training meet.
Work that threads do ahead, and a clock that goes on while the machine sleeps.

OpenMP starts a thread per core of the machine, whatever a container's CPU quota is, and a thread that reaches a barrier
first polls for milliseconds. Where another process has one of the cores, that thread polls on a core that the other
threads of its own team wait for. Both are decided by environment variables, which OpenMP reads once, when it is loaded:
whoever starts a process that computes adds :func:`thread_env` to its environment.

Uses the standard library alone, because the sandbox imports it before its limits apply.
"""

from __future__ import annotations

import math
import os
import re
import resource
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Polls of a waiting thread before it sleeps (GNU OpenMP; its own value is 300,000, and 1,000 with more threads than
# cores). ``python -m benchmarks contention --spin-counts …`` compares others.
SPIN_COUNT = 1000
WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a choice of the user's, in either of them, is kept
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}


def forbid_downloads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch model hubs off. Entry points of the service call it before anything imports transformers."""
    environment.update(OFFLINE)


# what a process of a run may have of its worker's environment
_PASSED = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "LANG", "LANGUAGE", "TZ", "TERM", "VIRTUAL_ENV"}
_PASSED |= {"TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "CUBLAS_WORKSPACE_CONFIG"}
_PASSED |= {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
_PASSED |= {"AWS_CA_BUNDLE", "AWS_REGION", "AWS_DEFAULT_REGION"}
_PASSED_PREFIXES = (
    *("LCL_", "LC_", "PYTHON", "XDG_", "SSL_CERT_", "SBATCH_", "COVERAGE_", "MALLOC_"),
    *("CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "UCX_", "FI_"),
    *("TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "PYTORCH_", "TRITON_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ONEDNN_", "DNNL_"),
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_"),
)
# of these prefixes: addresses with passwords, and what Ray sets, with which a breakpoint waits for Ray's debugger
_LEFT_OUT = {"LCL_DATABASE_URL", "LCL_BROKER_URL", "PYTHONBREAKPOINT"}
_SECRET_WORDS = {"KEY", "KEYS", "SECRET", "SECRETS", "TOKEN", "TOKENS", "PASSWORD", "CREDENTIAL", "CREDENTIALS"}
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
# prefixes of a protocol's credentials, besides fsspec's own FSSPEC_{PROTOCOL}_*
_STORAGE_PREFIXES = {
    **dict.fromkeys(("s3", "s3a"), ("AWS_",)),
    **dict.fromkeys(("gs", "gcs"), ("GOOGLE_", "GCS_")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("AZURE_",)),
}


def allowed_environment(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """The variables that a process of a run needs, with hubs off.

    Others are left out: secrets, and what launchers set, with which it would believe that it is a rank of another job.

    Args:
        protocols: of storage (s3 …) whose credentials are kept.
    """
    return {name: value for name, value in environment.items() if _is_allowed(name, value, protocols)} | OFFLINE


def _is_allowed(name: str, value: str, protocols: Collection[str]) -> bool:
    upper = name.upper()
    if any(upper.startswith((*_STORAGE_PREFIXES.get(each, ()), f"FSSPEC_{each.upper()}_")) for each in protocols):
        return True
    if upper in _LEFT_OUT or not _SECRET_WORDS.isdisjoint(upper.split("_")) or _PASSWORD_IN_URL.search(value):
        return False
    return upper in _PASSED or upper.startswith(_PASSED_PREFIXES)


def exit_with_parent() -> None:
    """Start a thread that ends this process of ``multiprocessing`` when its parent has ended; none without a parent.

    Without it, a process whose parent was killed would wait for messages for ever, and keep what it holds: memory, the
    lock of a run's folder.
    """
    from multiprocessing import parent_process

    parent = parent_process()

    def exit_after_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    if parent is not None:
        threading.Thread(target=exit_after_parent, name="exit-with-parent", daemon=True).start()


def boot_time() -> float:
    """Seconds since the boot, those in which the machine slept included; nobody sets this clock."""
    # macOS has no CLOCK_BOOTTIME, its CLOCK_MONOTONIC does the same
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def thread_env(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to ``environment``: of ``OMP_NUM_THREADS`` and ``GOMP_SPINCOUNT`` those that it leaves open.

    An empty value counts as none, as in a line of ``.env`` that nobody filled in.
    """
    added = {}
    if not environment.get("OMP_NUM_THREADS"):
        added["OMP_NUM_THREADS"] = str(usable_cores())
    if not any(environment.get(name) for name in WAIT_VARIABLES):
        added["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return added


def threads_per_process(environment: Mapping[str, str], processes: int) -> int:
    """Threads of each of ``processes`` that share ``OMP_NUM_THREADS`` of ``environment``, or the usable cores."""
    whole = environment.get("OMP_NUM_THREADS", "")
    return max(1, (int(whole) if whole.isdecimal() else usable_cores()) // processes)


def raise_open_files(count: int) -> None:
    """Let this process, and those that it starts, open so many files, or as many as the hard limit permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        permitted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, hard))


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, at most those of its CPU quota, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that the control group of this process, and all groups above it that are visible, allow; None: no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    top = root / "sys/fs/cgroup"
    quotas = []
    for own in (top / line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")):
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # no such group here, or no limit
                limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
                quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def prefetch_map(work: Callable[[T], R], items: Iterable[T], *, threads: int | None = None) -> Iterator[R]:
    """``map(work, items)`` in order, computed by threads (None: one a core, at most 8) a few items ahead."""
    if threads == 0:
        yield from map(work, items)
        return
    count = threads or min(8, usable_cores())
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


MEETING_SECONDS = 300.0  # in which the ranks of a run must have connected to each other, unless a worker says otherwise
ADDRESS_VARIABLE, SECONDS_VARIABLE = "LCL_MEETING", "LCL_MEETING_SECONDS"
COUNT_VARIABLE, NUMBER_VARIABLE = "LCL_NODES", "LCL_NODE"


def reserve_port(host: str = "") -> socket.socket:
    """A socket that reserves a free TCP port of ``host`` (empty: all addresses) until it is closed. Raises: OSError.

    It does not listen. Rank 0 binds the port a second time (``SO_REUSEPORT``, which the system grants to processes of
    one user only) and listens, so that nothing else gets the port in between.
    """
    return _bind(host, 0)


def listen_on_reserved(port: int, host: str = "") -> socket.socket:
    """A socket that listens on a port that a process of the same user has reserved. Raises: OSError."""
    listener = _bind(host, port)
    listener.listen(1024)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    dual = not host and socket.has_dualstack_ipv6()
    bound = socket.socket(socket.AF_INET6 if dual else socket.AF_INET)
    try:
        if dual:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


@dataclass(frozen=True)
class NodeInfo:
    """This machine's number among those of the run, and the rendezvous address of their ranks."""

    number: int
    count: int
    host: str
    port: int
    seconds: float = MEETING_SECONDS

    @classmethod
    def at(cls, address: str, number: int, count: int, seconds: float) -> Self:
        """``address``: HOST:PORT, an IPv6 host in brackets."""
        host, _, port = address.rpartition(":")
        return cls(number, count, host.strip("[]"), int(port), seconds)

    @property
    def address(self) -> str:
        """HOST:PORT, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_env(self) -> dict[str, str]:
        """Environment variables for the job process of this node."""
        values = {
            COUNT_VARIABLE: self.count,
            NUMBER_VARIABLE: self.number,
            ADDRESS_VARIABLE: self.address,
            SECONDS_VARIABLE: self.seconds,
        }
        return {name: str(value) for name, value in values.items()}


def meeting_seconds() -> float | None:
    """Seconds in which the ranks must have met at the reserved port; None: torchrun started them."""
    value = os.environ.get(SECONDS_VARIABLE)
    return None if value is None else float(value)
