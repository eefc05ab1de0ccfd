"""Threads of a process that computes: the cores that it may use, how its OpenMP threads wait for one another, and work
that threads do ahead.

OpenMP starts a thread per core of the machine, whatever a container's CPU quota is, and a thread that reaches a barrier
first polls for milliseconds. Where another process has one of the cores, that thread polls on a core that the other
threads of its own team wait for. Both are decided by environment variables, which OpenMP reads once, when it is loaded:
whoever starts a process that computes adds :func:`thread_env` to its environment.

Uses the standard library alone, and imports no torch.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Polls of a waiting thread before it sleeps (GNU OpenMP; its own value is 300,000, and 1,000 with more threads than
# cores). ``python -m benchmarks contention --spin-counts …`` compares others.
SPIN_COUNT = 1000
WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a choice of the user's, in either of them, is kept


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


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, at most those of its CPU quota, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores that the control group of this process, and all groups above it that are visible, allow; None: no limit.

    Args:
        root: folder with ``proc`` and ``sys``.
    """
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
    """``map(work, items)`` in order, computed by threads a few items ahead; an error is raised at its item.

    Args:
        threads: None: one a core, at most 8; 0: no thread.
    """
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
