"""Outcome of a job process: result, error file, stop reason and exit status, classified in that order."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.common.system_errors import FailureCode
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
    """Why the supervisor asked a process to leave."""

    CANCEL = "cancel"
    PAUSE = "pause"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"  # the worker itself is leaving
    NODE = "node"  # another node of the run has ended out of order, so that this one would wait for it in vain


@dataclass(frozen=True)
class Requeue:
    """The run is unfinished through no fault of its own; another attempt goes on from its checkpoint."""

    uses_attempt: bool
    cause: str


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended. ``status`` as subprocess gives it; ``ending`` None when nobody asked it to leave."""

    status: int
    ending: StopReason | None
    log_start: int


def classify_exit(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """The verdict, from what the process left behind before how it left: a result outweighs a bad exit status."""
    if run_dir.result_file.exists():
        return RunSucceeded(json.loads(run_dir.result_file.read_text(encoding="utf-8")))
    if run_dir.error_file.exists():
        return _classify_error_file(json.loads(run_dir.error_file.read_text(encoding="utf-8")))
    if exited.ending is StopReason.CANCEL:
        return RunCancelled()
    if exited.ending is StopReason.PAUSE:
        return Requeue(uses_attempt=False, cause="it was paused")
    if exited.ending is StopReason.SHUTDOWN:
        return Requeue(uses_attempt=False, cause="the worker is leaving")
    if exited.ending is StopReason.NODE:
        return Requeue(uses_attempt=True, cause="another node of the run was lost")
    if exited.ending is StopReason.TIMEOUT:
        limit = claim.spec["timeout_seconds"]
        message = f"the run took longer than its timeout_seconds of {limit:g}; raise it and resume the run"
        return RunFailed({"code": "timeout", "message": message, "field": "timeout_seconds"})
    return _classify_status(claim, run_dir, exited)


def _classify_error_file(reason: dict[str, Any]) -> RunOutcome | Requeue:
    if reason.get("code") == "run_dir_busy":
        return Requeue(uses_attempt=True, cause="another process still works in the run's directory")
    return RunFailed(reason)


def _classify_status(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """Nobody asked the process to leave, and it left neither result nor reason."""
    words = last_error_line(run_dir.log_file, exited.log_start)
    where = f"; `lcl runs logs {claim.run_id}` shows the whole log"
    if exited.status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, ExitCode.CANCELLED):
        return _classify_outside_kill(claim, exited.status, where)
    if exited.status == ExitCode.OUT_OF_MEMORY:
        return _failed("out_of_memory", f"the run ran out of memory ({words}); {_memory_advice(claim.kind)}{where}")
    if exited.status in (ExitCode.DISK_FULL, ExitCode.READ_ONLY):
        return storage_failure(FailureCode[ExitCode(exited.status).name], run_dir.path)
    if exited.status == ExitCode.OK:
        return _failed("no_result", f"the process ended without a result{where}")
    if exited.status < 0:
        name = signal.Signals(-exited.status).name
        return _failed("crash", f"the process was ended by {name}: {words or 'its log is empty'}{where}")
    return _failed("crash", f"{words or f'the process ended with status {exited.status}'}{where}")


def _classify_outside_kill(claim: Claim, status: int, where: str) -> RunOutcome | Requeue:
    """An operator, a restart or the system's memory guard: worth another attempt, as long as there is one."""
    how = signal.Signals(-status).name if status < 0 else "SIGTERM"
    if claim.attempt < claim.max_attempts:
        return Requeue(uses_attempt=True, cause=f"the process was ended from outside by {how}")
    hint = f" (the system ran out of memory, perhaps: {_memory_advice(claim.kind)})" if how == "SIGKILL" else ""
    message = f"the process was ended from outside by {how}{hint}, in attempt {claim.attempt} as before{where}"
    return _failed("killed", message)


def _memory_advice(kind: str) -> str:
    fields = JOBS[kind].batch_fields if kind in JOBS else ""
    return f"lower {fields}, or use a machine with more memory" if fields else "use a machine with more memory"


def storage_failure(fault: FailureCode | None, place: Path | str, told: str = "") -> RunFailed:
    """Nothing is lost: checkpoints are renamed into place whole. ``told``: the system's words, of another fault."""
    words, way_out = _STORAGE.get(fault, (told, "mend the folder"))
    code = "storage" if fault is None else fault.value
    return _failed(code, f"{words} ({place}); {way_out}, then resume the run: it goes on from its last checkpoint")


def _failed(code: str, message: str) -> RunFailed:
    return RunFailed({"code": code, "message": message})


def last_error_line(log_file: Path, start: int) -> str:
    """The exception line of the last traceback after byte ``start`` of a log, else its last line, else ''."""
    with log_file.open("rb") as file:
        file.seek(max(start, file.seek(0, 2) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    found = next((line for line in reversed(lines) if line.strip()), "")
    tracebacks = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if tracebacks:
        found = next((line for line in lines[tracebacks[-1] + 1 :] if line[:1].strip()), found)
    return found.strip()[:_MAX_LINE]
