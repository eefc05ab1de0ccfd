"""Local executor: one job process in a session and process group of its own.

The process gets the worker's environment without secrets and without variables of another launcher. Credentials of
object storage stay, for the protocols that the data roots name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from lcl_core.common.fork_server import AVAILABLE, ForkServer, start_module
from lcl_core.common.processes import thread_env, without_secrets
from lcl_core.common.run_dir import RunDir
from lcl_core.jobs import JOBS
from workers.executors.base import Handle, JobRequest, MachineLost
from workers.job_output import dump_stacks
from workers.settings import WorkerSettings

FORK_SERVER = "LCL_FORK_SERVER"  # in the environment of this process
FORKED = {kind.module: kind.imports for kind in JOBS.values() if kind.imports}


def sanitized_env(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """Environment of a job process, marked as supervised, with the number of its threads and how they wait.

    Args:
        protocols: of the URLs that a run may read and write, such as ``s3``; their credentials stay.
    """
    kept = without_secrets(environment, protocols)
    return {**kept, **thread_env(kept), "LCL_SUPERVISED": "1", "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def fork_server(setting: str, modules: Collection[str]) -> Iterator[None]:
    """Let :class:`JobProcess` fork jobs: each starts without importing torch, which takes seconds.

    Args:
        setting: ``auto``: from a server that lives as long as the block; or what ``start_module`` accepts.
        modules: that run jobs.
    """
    imports = sorted({FORKED[module] for module in modules if module in FORKED})
    if setting != "auto" or not imports or not AVAILABLE:
        os.environ[FORK_SERVER] = setting if setting != "auto" else "off"
        yield
        return
    server = ForkServer(imports, sanitized_env(os.environ))
    server.prepare()
    os.environ[FORK_SERVER] = server.address
    try:
        yield
    finally:
        server.close()


def begin_log(log_file: Path, title: str) -> int:
    """Append the line that precedes the output of an attempt. Returns: the byte offset after it."""
    with log_file.open("ab") as log:
        if title:
            log.write(f"=== {title}, {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
        return log.tell()


class JobProcess:
    """``python -m MODULE RUN_DIR``. A context manager: after exit no process of its group is left.

    Its standard input stays open as long as this process lives; when it closes, the job exits by itself. Its output is
    appended to the run's log, under a line that names the attempt.

    Args:
        title: of the attempt; empty: the line is there already.
        protocols: of object storage whose credentials it gets.
        env: further environment variables.
    """

    is_paused = False

    def __init__(
        self,
        module: str,
        run_dir: RunDir,
        title: str,
        protocols: Collection[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._run_dir, self.log_file = run_dir, run_dir.log_file
        self.log_start = begin_log(run_dir.log_file, title)
        with run_dir.log_file.open("ab") as log:
            self._process = start_module(
                module,
                [str(run_dir.path)],
                server=os.environ.get(FORK_SERVER, "off") if module in FORKED else "off",
                env=sanitized_env(os.environ, protocols) | dict(env or {}),
                output=log,
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"pid": self.pid}

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Exit status (negative: of the signal that killed it), or None if it still runs after ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def terminate(self) -> None:
        """SIGTERM to the process alone: it needs its data workers until the checkpoint is written."""
        self._process.send_signal(signal.SIGTERM)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            os.killpg(self._process.pid, number)

    def kill(self) -> int:
        """Kill the whole group. Returns: the exit status."""
        self.signal_group(signal.SIGKILL)
        return self._process.wait()

    def dump_stacks(self, name: str = "stacks.txt") -> str:
        """Have its processes write their stacks to the artifact ``name``. Returns: what came of it."""
        return dump_stacks(self._run_dir, self.pid, name)

    def detach(self) -> bool:
        """Never: a job ends with the process that started it."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # helpers that the job left behind, and the job itself after an error here
        if self._process.stdin is not None:
            self._process.stdin.close()


class LocalExecutor:
    """Starts jobs on this machine, one node each, with the GPUs that the worker has leased."""

    places_nodes = False

    def __init__(self, settings: WorkerSettings) -> None:
        self._fork_server = settings.fork_server

    def serving(self, modules: Collection[str]) -> contextlib.AbstractContextManager[None]:
        return fork_server(self._fork_server, modules)

    def capacity(self) -> None:
        """Its workers lease GPUs and count slots in the database."""
        return

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> JobProcess:
        return JobProcess(request.module, request.run_dir, request.title, request.protocols, request.env)

    def attach(self, handle: Handle, run_dir: RunDir) -> JobProcess:
        raise MachineLost("a job on the machine of its worker ends with the worker")
