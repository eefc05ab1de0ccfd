"""Starts the training processes of this machine as torchrun does, but keeps their exit status.

torchrun turns every failure into exit status 1 and kills after half a minute; the supervisor of a run needs the status,
and a last checkpoint may take longer. Each of several machines starts its own processes; the supervisors give all the
same rendezvous address. Without supervisors torchrun can start ``-m lcl_core.train``: the environment is the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from lcl_core.common.processes import (
    ADDRESS_VARIABLE,
    COUNT_VARIABLE,
    MEETING_SECONDS,
    NUMBER_VARIABLE,
    SECONDS_VARIABLE,
    NodeInfo,
    reserve_port,
    thread_env,
    threads_per_process,
)
from lcl_core.common.run_dir import ExitCode, RunDir

_CRASH_GRACE = 4.0  # seconds, of all other ranks together
_INFORMATIVE = (
    *(ExitCode.USER_ERROR, ExitCode.DISK_FULL, ExitCode.READ_ONLY, ExitCode.OUT_OF_MEMORY),
    ExitCode.RENDEZVOUS_FAILED,
)
_LOOPBACK = "127.0.0.1"


def node_from_env() -> NodeInfo | None:
    """What :meth:`NodeInfo.to_env` wrote for this process; None: a single node."""
    count = int(os.environ.get(COUNT_VARIABLE, "1"))
    if count == 1:
        return None
    address, number = os.environ[ADDRESS_VARIABLE], int(os.environ[NUMBER_VARIABLE])
    return NodeInfo.at(address, number, count, float(os.environ.get(SECONDS_VARIABLE, MEETING_SECONDS)))


def launch(run_dir: str, processes: int, node: NodeInfo | None = None) -> int:
    """Run ``python -m lcl_core.train RUN_DIR`` as this node's ``processes`` ranks; None: there is no other node.

    SIGTERM is passed on. When one fails, the others, which would wait for it for ever, are killed.

    Returns: the exit status of the one that failed, or 0; negative for a signal, as in subprocess.
    """
    if node is None:
        with reserve_port(_LOOPBACK) as reserved:
            return _run_ranks(run_dir, processes, NodeInfo(0, 1, _LOOPBACK, reserved.getsockname()[1]))
    return _run_ranks(run_dir, processes, node)


def _run_ranks(run_dir: str, processes: int, node: NodeInfo) -> int:
    ranks = [_start(run_dir, rank, processes, node) for rank in range(processes)]
    RunDir(run_dir).watch_signals()  # to end when this process's supervisor is gone
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _signal_all(ranks, signal.SIGTERM))
    failures: list[int] = []
    threads = [threading.Thread(target=_wait_for, args=(rank, ranks, failures)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # with a timeout, so that signals are handled
            thread.join(0.2)
    return combined_status(failures)


def _start(run_dir: str, local_rank: int, processes: int, node: NodeInfo) -> subprocess.Popen[bytes]:
    threads = {**thread_env(os.environ), "OMP_NUM_THREADS": str(threads_per_process(os.environ, processes))}
    environment = os.environ | rank_env(node, local_rank, processes) | threads
    # its standard input stays open as long as this process lives: a rank ends when it closes
    environment |= {"LCL_SUPERVISED": "1"}
    return subprocess.Popen([sys.executable, "-m", "lcl_core.train", run_dir], env=environment, stdin=subprocess.PIPE)


def rank_env(node: NodeInfo, local_rank: int, processes: int) -> dict[str, str]:
    """The variables that torchrun would give a rank, and those of the rendezvous."""
    values: dict[str, object] = {
        "RANK": node.number * processes + local_rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": node.count * processes,
        "LOCAL_WORLD_SIZE": processes,
        "GROUP_RANK": node.number,
        "MASTER_ADDR": node.host,
        "MASTER_PORT": node.port,
        SECONDS_VARIABLE: node.seconds,
    }
    if node.host.startswith("127."):  # all ranks are on this machine
        values["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    return {name: str(value) for name, value in values.items()}


def _wait_for(rank: subprocess.Popen[bytes], ranks: list[subprocess.Popen[bytes]], failures: list[int]) -> None:
    status = rank.wait()
    if status == ExitCode.OK:
        return
    failures.append(status)
    if status == ExitCode.CANCELLED:
        return
    if status == ExitCode.CRASH:  # perhaps only because another rank ended, which may still be writing its error
        deadline = time.monotonic() + _CRASH_GRACE
        for other in ranks:
            with suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, deadline - time.monotonic()))
    _signal_all(ranks, signal.SIGKILL)


def combined_status(statuses: Sequence[int]) -> int:
    """The most informative status of the processes of one job: one that a user can act on, else the first failure.

    Args:
        statuses: in the order in which the processes ended.
    """
    failures = [status for status in statuses if status != ExitCode.OK]
    telling = [status for status in _INFORMATIVE if status in failures]
    return (telling or failures or [ExitCode.OK])[0]


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for rank in ranks:
        with suppress(ProcessLookupError):
            rank.send_signal(number)
