"""Outcome of a job process: result, error file, stop reason and exit status, classified in that order."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.common.system_errors import FailureCode, failure_code
from lcl_core.db.complete_run import RunCancelled, RunFailed, RunOutcome, RunSucceeded
from lcl_core.db.leases import Claim
from lcl_core.jobs import JOBS

_TAIL_BYTES = 65_536
_MAX_LINE = 500

_STORAGE: dict[FailureCode | None, tuple[str, str]] = {
    FailureCode.DISK_FULL: ("no space is left where the run writes", "make room there"),
    FailureCode.READ_ONLY: ("the run may not write to its folder", "make it writable"),
}


class StopReason(Enum):
    """Why the supervisor stopped a process."""

    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"  # of the worker
    NODE = "node"  # another node of the run has failed, and this one would wait for it forever


@dataclass(frozen=True)
class Requeue:
    """The run is unfinished through no fault of its own; another attempt resumes from its checkpoint."""

    uses_attempt: bool
    cause: str


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended. ``status``: as subprocess has it; ``stop_reason``: None when nobody stopped it."""

    status: int
    stop_reason: StopReason | None
    log_start: int


def classify_exit(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """Outcome of an attempt. Files in RUN_DIR count before the exit status: a result outweighs a bad status."""
    if run_dir.result_file.exists():
        return RunSucceeded(json.loads(run_dir.result_file.read_text(encoding="utf-8")))
    if run_dir.error_file.exists():
        return _classify_error_file(json.loads(run_dir.error_file.read_text(encoding="utf-8")))
    if exited.stop_reason is StopReason.CANCEL:
        return RunCancelled()
    if exited.stop_reason is StopReason.PAUSE:
        return Requeue(uses_attempt=False, cause="it was paused")
    if exited.stop_reason is StopReason.SHUTDOWN:
        return Requeue(uses_attempt=False, cause="the worker is leaving")
    if exited.stop_reason is StopReason.NODE:
        return Requeue(uses_attempt=True, cause="another node of the run was lost")
    if exited.stop_reason is StopReason.TIMEOUT:
        limit = claim.spec["timeout_seconds"]
        message = f"the run took longer than its timeout_seconds of {limit:g}; raise it and resume the run"
        return RunFailed({"code": "timeout", "message": message, "field": "timeout_seconds"})
    return _classify_status(claim, run_dir, exited)


def _classify_error_file(reason: dict[str, Any]) -> RunOutcome | Requeue:
    if reason.get("code") == "run_dir_busy":
        return Requeue(uses_attempt=True, cause="another process still works in the run's directory")
    return RunFailed(reason)


def _classify_status(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """Nobody stopped the process, and it wrote neither result nor error."""
    line = last_error_line(run_dir.log_file, exited.log_start)
    where = f"; `lcl runs logs {claim.run_id}` shows the whole log"
    if exited.status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, ExitCode.CANCELLED):
        return _classify_outside_kill(claim, exited.status, where)
    if exited.status == ExitCode.RENDEZVOUS_FAILED:
        return Requeue(
            uses_attempt=False, cause=line.removeprefix("error: ") or "its processes did not connect in time"
        )
    if exited.status == ExitCode.OUT_OF_MEMORY:
        return _failed("out_of_memory", f"the run ran out of memory ({line}); {_memory_advice(claim.kind)}{where}")
    if exited.status in (ExitCode.DISK_FULL, ExitCode.READ_ONLY):
        return storage_failure(FailureCode[ExitCode(exited.status).name], run_dir.path)
    if exited.status == ExitCode.OK:
        return _failed("no_result", f"the process ended without a result{where}")
    if exited.status < 0:
        name = signal.Signals(-exited.status).name
        return _failed("crash", f"the process was ended by {name}: {line or 'its log is empty'}{where}")
    return _failed("crash", f"{line or f'the process ended with status {exited.status}'}{where}")


def _classify_outside_kill(claim: Claim, status: int, where: str) -> RunOutcome | Requeue:
    """An operator, a restart or the OOM killer: retried as long as attempts are left."""
    name = signal.Signals(-status).name if status < 0 else "SIGTERM"
    if claim.attempt < claim.max_attempts:
        return Requeue(uses_attempt=True, cause=f"the process was ended from outside by {name}")
    hint = f" (the system ran out of memory, perhaps: {_memory_advice(claim.kind)})" if name == "SIGKILL" else ""
    message = f"the process was ended from outside by {name}{hint}, in attempt {claim.attempt} as before{where}"
    return _failed("killed", message)


def _memory_advice(kind: str) -> str:
    fields = JOBS[kind].batch_fields if kind in JOBS else ""
    return f"lower {fields}, or use a machine with more memory" if fields else "use a machine with more memory"


def storage_failure(code: FailureCode | None, path: Path | str, problem: str = "") -> RunFailed:
    """Reason of a run that could not write. ``problem``: the system's message, for an unknown ``code``."""
    problem, way_out = _STORAGE.get(code, (problem, "mend the folder"))
    name = "storage" if code is None else code.value
    return _failed(name, f"{problem} ({path}); {way_out}, then resume the run: it goes on from its last checkpoint")


def os_error_failure(error: OSError, run_dir: Path) -> RunFailed:
    """Reason of a run whose worker could not write or read its folder."""
    code = failure_code(error, run_dir.parent.parent)
    return storage_failure(code, error.filename or run_dir, error.strerror or str(error))


def _failed(code: str, message: str) -> RunFailed:
    return RunFailed({"code": code, "message": message})


def last_error_line(log_file: Path, start: int) -> str:
    """Exception line of the last traceback after byte ``start`` of a log, else its last line, else ''."""
    with log_file.open("rb") as file:
        file.seek(max(start, file.seek(0, 2) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    tracebacks = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if tracebacks:
        last = next((line for line in lines[tracebacks[-1] + 1 :] if line[:1].strip()), last)
    return last.strip()[:_MAX_LINE]
