"""Several training processes on this machine, as torchrun would start them, but with their exit status kept.

torchrun turns every failure into exit status 1 and kills after half a minute; a run's status tells its supervisor
what happened, and its last checkpoint may take longer. On several machines, start ``-m lcl_core.train`` by torchrun:
the processes read the same environment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from lcl_core.rundir import Exit, RunDir

_PATIENCE = 5.0  # seconds


def launch(run_dir: str, processes: int) -> int:
    """Run ``python -m lcl_core.train RUN_DIR`` as ``processes`` ranks.

    SIGTERM is passed on. When one fails, the others, which would wait for it in vain, are killed.

    Returns: the exit status of the one that failed, or 0; negative for a signal, as subprocess has it.
    """
    RunDir(run_dir).watch_signals()  # to leave when our own supervisor is gone
    port = _free_port()
    ranks = [_start(run_dir, rank, processes, port) for rank in range(processes)]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _signal_all(ranks, signal.SIGTERM))
    failures: list[int] = []
    threads = [threading.Thread(target=_await, args=(rank, ranks, failures)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # in slices, so that signals are handled meanwhile
            thread.join(0.2)
    return _verdict(failures)


def _start(run_dir: str, rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes)
    environment = os.environ | {name: str(value) for name, value in place.items()} | {"OMP_NUM_THREADS": str(threads)}
    # the pipe stays open as long as this process lives: it is how a rank learns that nobody waits for it any more
    return subprocess.Popen(
        [sys.executable, "-m", "lcl_core.train", run_dir],
        env=environment | {"LCL_SUPERVISED": "1"},
        stdin=subprocess.PIPE,
    )


def _await(rank: subprocess.Popen[bytes], ranks: list[subprocess.Popen[bytes]], failures: list[int]) -> None:
    status = rank.wait()
    if status == Exit.OK:
        return
    failures.append(status)
    if status == Exit.CANCELLED:
        return
    if status == Exit.CRASH:  # perhaps only because another left; that one may still be writing down why
        for other in ranks:
            with suppress(subprocess.TimeoutExpired):
                other.wait(_PATIENCE)
    _signal_all(ranks, signal.SIGKILL)


def _verdict(failures: list[int]) -> int:
    """The status that says most: what a user can mend, else the first."""
    if Exit.USER_ERROR in failures:
        return Exit.USER_ERROR
    return failures[0] if failures else Exit.OK


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for rank in ranks:
        with suppress(ProcessLookupError):
            rank.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
