"""Local executor: one job process in a session and process group of its own.

The process gets the worker's environment without secrets and without variables of another launcher. Credentials of
object storage stay, for the protocols that the data roots name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Self

from lcl_core.common.process_env import without_secrets
from lcl_core.common.run_dir import RunDir
from lcl_core.db.leases import Claim


def sanitized_env(environment: Mapping[str, str], protocols: Collection[str] = ()) -> dict[str, str]:
    """Environment of a job process, marked as supervised.

    Args:
        protocols: of the URLs that a run may read and write, such as ``s3``; their credentials stay.
    """
    return {**without_secrets(environment, protocols), "LCL_SUPERVISED": "1", "PYTHONUNBUFFERED": "1"}


def device_env(claim: Claim) -> dict[str, str]:
    """Hide the GPUs from a run that requested the CPU: another run may need their memory."""
    return {"CUDA_VISIBLE_DEVICES": ""} if claim.resource == "cpu" else {}


class JobProcess:
    """``python -m MODULE RUN_DIR``. A context manager: after exit no process of its group is left.

    Its standard input stays open as long as this process lives; when it closes, the job exits by itself. Its output is
    appended to the run's log, under a line that names the attempt.

    Args:
        protocols: of object storage whose credentials it gets.
        env: further environment variables.
    """

    def __init__(
        self,
        module: str,
        run_dir: RunDir,
        title: str,
        protocols: Collection[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        header = f"=== {title}, {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode()
        with run_dir.log_file.open("ab") as log:
            log.write(header)
            log.flush()
            self.log_start = log.tell()  # byte offset of this attempt's own output
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(run_dir.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=sanitized_env(os.environ, protocols) | dict(env or {}),
                start_new_session=True,
            )

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()  # helpers that the job left behind, and the job itself after an error here
        if self._process.stdin is not None:
            self._process.stdin.close()
