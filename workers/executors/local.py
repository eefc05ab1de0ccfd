"""Local executor: one job process in a session and process group of its own.

The process gets the worker's environment without secrets and without variables of another launcher. Credentials of
object storage stay, for the protocols that the data roots name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from lcl_core.common.fork_server import ForkServer, start_module
from lcl_core.common.processes import allowed_environment, thread_env
from lcl_core.common.run_dir import STACK_SIGNAL, RunDir
from lcl_core.jobs import JOBS
from workers.executors.base import Handle, JobRequest, MachineLost
from workers.settings import WorkerSettings

_DUMP_SECONDS = 5.0
FORKED = {kind.module: kind.imports for kind in JOBS.values() if kind.imports}


def sanitized_env(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """Environment of a job process, marked as supervised, with the number of its threads and how they wait.

    Args:
        protocols: of the URLs that a run may read and write, such as ``s3``; their credentials stay.
    """
    kept = allowed_environment(environment, protocols)
    return {**kept, **thread_env(kept), "LCL_SUPERVISED": "1", "PYTHONUNBUFFERED": "1"}


class JobProcess:
    """``python -m MODULE RUN_DIR``. A context manager: after exit no process of its group is left.

    Its standard input stays open as long as this process lives; when it closes, the job exits by itself. Its output is
    appended to the run's log, under a line that names the attempt.

    Args:
        title: of the attempt, for the line.
        protocols: of object storage whose credentials it gets.
        env: further environment variables.
        server: that has imported its libraries.
    """

    is_paused = False

    def __init__(
        self,
        module: str,
        run_dir: RunDir,
        title: str,
        protocols: Collection[str] = (),
        env: Mapping[str, str] | None = None,
        server: ForkServer | None = None,
    ) -> None:
        self._run_dir, self.log_file = run_dir, run_dir.log_file
        with run_dir.log_file.open("ab") as log:
            log.write(f"=== {title}, {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
            log.flush()
            self.log_start = log.tell()
            environment = sanitized_env(os.environ, protocols) | dict(env or {})
            self._process = start_module([module, str(run_dir.path)], environment, log, server=server)

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

    def kill(self) -> int:
        """Kill the whole group. Returns: the exit status."""
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def dump_stacks(self, name: str = "stacks.txt") -> str:
        """Have its processes write their stacks to the artifact ``name``. Returns: what came of it."""
        files = {path: path.stat().st_size for path in self._run_dir.stacks.glob("*.txt") if self._is_of_job(path)}
        for path in files:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.stem), STACK_SIGNAL)
        deadline = time.monotonic() + _DUMP_SECONDS
        while any(path.stat().st_size == size for path, size in files.items()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.05 if files else 0.0)  # a stack is written in several parts
        written = sorted(path for path, size in files.items() if path.stat().st_size > size)
        if not written:
            return "none of its processes wrote its stacks"
        parts = [f"=== {path.read_text(encoding='utf-8', errors='replace')}" for path in written]
        (self._run_dir.artifacts / name).write_text("\n".join(parts), encoding="utf-8")
        return f"the artifact {name} has the stacks of {len(written)} of its processes"

    def _is_of_job(self, stacks: Path) -> bool:
        """By the process id in the name of a file, and the group of that process."""
        with contextlib.suppress(ProcessLookupError):
            return stacks.stem.isdecimal() and os.getpgid(int(stacks.stem)) == self.pid
        return False

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
    server: ForkServer | None = None  # while it serves jobs whose libraries take seconds to import

    def __init__(self, settings: WorkerSettings) -> None:
        pass

    @contextlib.contextmanager
    def serving(self, modules: Collection[str]) -> Iterator[None]:
        if imports := sorted({FORKED[module] for module in modules if module in FORKED}):
            self.server = ForkServer(imports, sanitized_env(os.environ))
            self.server.start()
        try:
            yield
        finally:
            if self.server is not None:
                self.server.close()

    def capacity(self) -> None:
        """Its workers lease GPUs and count slots in the database."""
        return

    def start(self, request: JobRequest, remember: Callable[[Handle], None]) -> JobProcess:
        server = self.server if request.module in FORKED else None
        return JobProcess(request.module, request.run_dir, request.title, request.protocols, request.env, server)

    def attach(self, handle: Handle, run_dir: RunDir) -> JobProcess:
        raise MachineLost("a job on the machine of its worker ends with the worker")
