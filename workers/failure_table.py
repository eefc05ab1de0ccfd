"""How an attempt ended, and what follows: one table of causes, evidence and policies.

The outcome is classified from result, error file, stop reason, exit status and log, in that order. The supervisor acts
on the policy.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from lcl_core.common.errors import FailureCode, failure_code
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db.complete_run import RunCancelled, RunFailed, RunOutcome, RunSucceeded
from lcl_core.db.leases import COUNTED, NO_CAPACITY, Claim, Setbacks
from lcl_core.jobs import JOBS

# between two attempts of a run whose machine, network or store failed; twice as long each time
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 10.0, 600.0
INFRASTRUCTURE_RETRIES = 10


class Policy(Enum):
    COUNTED = "queued; the attempt is counted"
    AT_ONCE = "queued at once, or paused; not counted"
    DELAYED = "queued with a delay that doubles; not counted"
    WAITING = "queued again after 10 s, however often; not counted"


@dataclass(frozen=True)
class FailureRule:
    """A cause after which a run is queued again. After any other one it has failed: docs/runs.md has all.

    Attributes:
        cause: code in the run's row.
        meaning: of ``pattern``, for the run's reason.
        pattern: of the line of an exception, or of the last line of a log.
        retries: without a new checkpoint between them, if fewer than the policy has.
    """

    cause: str
    policy: Policy
    meaning: str = ""
    pattern: re.Pattern[str] | None = None
    retries: int | None = None

    @property
    def uses_attempt(self) -> bool:
        return self.policy is Policy.COUNTED

    def exhausted(self, setbacks: Setbacks, max_attempts: int) -> bool:
        """Whether the run fails.

        Args:
            setbacks: since the last new checkpoint, without the one that is being decided.
        """
        if self.policy in (Policy.AT_ONCE, Policy.WAITING):
            return False
        retries = INFRASTRUCTURE_RETRIES if self.policy is Policy.DELAYED else self.retries
        if retries is not None and setbacks.get(self.cause, 0) >= retries:
            return True
        return self.policy is Policy.COUNTED and setbacks.get(COUNTED, 0) + 1 >= max_attempts

    def delay_seconds(self, setbacks: Setbacks) -> float:
        """Until the run may be claimed again."""
        if self.policy is Policy.WAITING:
            return FIRST_DELAY_SECONDS
        if self.policy is not Policy.DELAYED:
            return 0.0
        return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** setbacks.get(self.cause, 0))


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


# of several causes in one log the first one here counts: those at the end follow from another rank's failure
_TABLE = (
    FailureRule("worker_lost", Policy.COUNTED),
    FailureRule("killed", Policy.COUNTED),
    FailureRule("hung", Policy.COUNTED, retries=1),
    FailureRule("interrupted", Policy.AT_ONCE),
    FailureRule("database_away", Policy.AT_ONCE),
    FailureRule("machine_lost", Policy.DELAYED),
    FailureRule(NO_CAPACITY, Policy.WAITING),
    FailureRule("artifacts_pending", Policy.WAITING),
    FailureRule("run_dir_busy", Policy.DELAYED),
    FailureRule(
        "store_unreachable",
        Policy.DELAYED,
        "object storage did not answer",
        _words(
            r"\b(EndpointConnectionError|ConnectTimeoutError|ReadTimeoutError|ConnectionClosedError)\b",
            r"\b(ServiceUnavailable|SlowDown|RequestTimeout|InternalError)\b.*\boperation\b",
            r"aiohttp\.client_exceptions\.(ClientConnector|ServerDisconnected|ServerTimeout)",
        ),
    ),
    FailureRule("checkpoint_unreadable", Policy.DELAYED),
    FailureRule(
        "gpu_fault",
        Policy.DELAYED,
        "an error of the GPU: ECC, fallen off the bus",
        _words(
            r"uncorrectable (NVLink |ECC )?error",
            r"\bECC error",
            r"GPU (has )?fallen off the bus",
            r"CUDA error: (unknown error|unspecified launch failure|device.*(unavailable|not ready))",
            r"CUDA driver.*(initialization|insufficient) error",
        ),
    ),
    FailureRule(
        "address_in_use",
        Policy.DELAYED,
        "the port of the rendezvous was taken by another process",
        _words(r"\bEADDRINUSE\b", r"Address already in use"),
    ),
    FailureRule(
        "nccl",
        Policy.DELAYED,
        "an error of NCCL: network, a collective operation that timed out",
        _words(
            r"\bNCCL (error|communicator was aborted|watchdog)",
            r"\bnccl(System|Remote|Internal|UnhandledCuda)Error",
            r"Watchdog caught collective operation timeout",
        ),
    ),
    FailureRule(
        "network",
        Policy.DELAYED,
        "the connection to another machine or process of the run broke off",
        _words(r"\bgloo/transport/", r"\bDist(Network|Store)Error\b"),
    ),
    FailureRule("rendezvous_failed", Policy.DELAYED),
)
RULES: Mapping[str, FailureRule] = {rule.cause: rule for rule in _TABLE}
_CHAINED = (
    "During handling of the above exception",
    "The above exception was the direct cause",
)


def infrastructure_cause(lines: Sequence[str]) -> FailureRule | None:
    """The cause that all exceptions in a log have in common with the table; None if one of them is of another kind.

    Several ranks write one log, and the others fail because one has: an exception that the table does not know is
    the cause then. Without a traceback the last line counts, which libraries write before they abort.
    """
    found = [_rule_of(chain) for chain in _exception_chains(lines)]
    known = [rule for rule in found if rule is not None]
    if not known or len(known) < len(found):
        return None
    return min(known, key=_TABLE.index)


def _rule_of(chain: Sequence[str]) -> FailureRule | None:
    for rule in _TABLE:
        if rule.pattern is not None and any(rule.pattern.search(line) for line in chain):
            return rule
    return None


def _exception_chains(lines: Sequence[str]) -> Iterator[list[str]]:
    """The exception lines of each chain of tracebacks."""
    chains: list[list[str]] = []
    chained = inside = False
    for line in lines:
        if line.startswith(_CHAINED):
            chained = True
        elif line.startswith("Traceback (most recent call last)"):
            if not chained:
                chains.append([])
            chained, inside = False, True
        elif inside and line[:1].strip():
            chains[-1].append(line)
            inside = False
    if not chains:
        last = [line for line in lines if line.strip()][-1:]
        chains = [[*(line for line in lines if "what():" in line), *last]] if last else []
    yield from chains


_TAIL_BYTES = 65_536
_MAX_LINE = 500
# NFS may answer from its cache, for up to a minute, that a file does not exist which another machine has created
HIDDEN_SECONDS = 70.0
_HIDDEN_POLL_SECONDS = 1.0

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
    DATABASE = "database"  # it did not answer, and the lease was about to run out
    HUNG = "hung"  # no progress until the deadline
    MACHINE = "machine"  # the executor has lost it
    DETACHED = "detached"  # it continues, and the next worker re-attaches


_REQUEUED = {
    StopReason.PAUSE: ("interrupted", "it was paused"),
    StopReason.SHUTDOWN: ("interrupted", "the worker is leaving"),
    StopReason.DATABASE: ("database_away", "the database did not answer its worker for half of a lease"),
    StopReason.DETACHED: ("interrupted", "the worker is leaving, and the next one re-attaches to the processes"),
}


@dataclass(frozen=True)
class Requeue:
    """The run is unfinished through no fault of its own; another attempt resumes from its checkpoint.

    Attributes:
        code: of the rule in the failure table.
        message: of the run's reason, when no attempt is left. ``cause`` if empty.
        keeps_processes: they continue, for the next worker to re-attach.
    """

    code: str
    cause: str
    message: str = ""
    keeps_processes: bool = False

    @property
    def rule(self) -> FailureRule:
        return RULES[self.code]

    @property
    def failure(self) -> RunFailed:
        """Outcome of the run when no attempt is left."""
        reason = {"code": self.code, "message": self.message or self.cause}
        return RunFailed(reason, keeps_processes=self.keeps_processes)


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended. ``status``: as in subprocess; ``stop_reason``: None when nobody stopped it.

    Attributes:
        hang: what is known about a process that was stopped because it hung.
        loss: what the executor reports about a machine that it has lost.
        log_file: with its output; None: that of RUN_DIR.
    """

    status: int
    stop_reason: StopReason | None
    log_start: int
    hang: str = ""
    loss: str = ""
    log_file: Path | None = None


def await_outcome_file(run_dir: RunDir, exited: ProcessExit, check: Callable[[], None]) -> None:
    """Wait until result or error of a job on another machine is visible here; HIDDEN_SECONDS at most.

    Returns at once where the exit status promises neither.

    Args:
        check: called while it waits; what it raises ends the wait.
    """
    promised = exited.status in (ExitCode.OK, ExitCode.USER_ERROR) and exited.stop_reason is not StopReason.DETACHED
    deadline = time.monotonic() + HIDDEN_SECONDS
    while promised and not _has_outcome_file(run_dir) and time.monotonic() < deadline:
        check()
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=run_dir.path, prefix="."):
            pass  # a change of the folder from here makes NFS ask the server what is in it
        if not _has_outcome_file(run_dir):
            time.sleep(_HIDDEN_POLL_SECONDS)


def _has_outcome_file(run_dir: RunDir) -> bool:
    return run_dir.result_file.exists() or run_dir.error_file.exists()


def classify_exit(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """Outcome of an attempt. Files in RUN_DIR count before the exit status: a result outweighs a bad status."""
    if run_dir.result_file.exists():
        return RunSucceeded(json.loads(run_dir.result_file.read_text(encoding="utf-8")))
    if run_dir.error_file.exists():
        return classify_error(json.loads(run_dir.error_file.read_text(encoding="utf-8")))
    if exited.stop_reason is StopReason.CANCEL:
        return RunCancelled()
    if exited.stop_reason is StopReason.MACHINE:
        return Requeue("machine_lost", exited.loss)
    if exited.stop_reason in _REQUEUED:
        code, cause = _REQUEUED[exited.stop_reason]
        return Requeue(code, cause, keeps_processes=exited.stop_reason is StopReason.DETACHED)
    if exited.stop_reason is StopReason.HUNG:
        where = f"`lcl runs logs {claim.run_id}` shows its log; resume the run to go on from its last checkpoint"
        return Requeue("hung", exited.hang, f"{exited.hang}, as the attempt before; {where}")
    if exited.stop_reason is StopReason.TIMEOUT:
        limit = claim.spec["timeout_seconds"]
        way_out = f"raise it as you resume the run: lcl runs resume {claim.run_id} --timeout SECONDS"
        message = f"the run took longer than its timeout_seconds of {limit:g}; {way_out}"
        return RunFailed({"code": "timeout", "message": message, "field": "timeout_seconds"})
    return _classify_status(claim, run_dir, exited)


def classify_error(reason: dict[str, Any]) -> RunOutcome | Requeue:
    """Outcome of an attempt that ended with a UserError, as ``UserError.to_dict``."""
    rule = RULES.get(reason.get("code", ""))
    if rule is not None and rule.policy in (Policy.DELAYED, Policy.WAITING):
        return Requeue(rule.cause, reason["message"])
    return RunFailed(reason)


def _classify_status(claim: Claim, run_dir: RunDir, exited: ProcessExit) -> RunOutcome | Requeue:
    """Nobody stopped the process, and it wrote neither result nor error."""
    log_file = exited.log_file or run_dir.log_file
    line = last_error_line(log_file, exited.log_start)
    where = f"; `lcl runs logs {claim.run_id}` shows the whole log"
    if exited.status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, ExitCode.CANCELLED):
        # An operator, a restart or the OOM killer: retried as long as attempts are left
        name = signal.Signals(-exited.status).name if exited.status < 0 else "SIGTERM"
        cause = f"the process was ended from outside by {name}"
        hint = f" (the system ran out of memory, perhaps: {_memory_advice(claim.kind)})" if name == "SIGKILL" else ""
        return Requeue("killed", cause, f"{cause}{hint}, in attempt {claim.attempt} as before{where}")
    if exited.status == ExitCode.RENDEZVOUS_FAILED:
        cause = line.removeprefix("error: ") or "its processes did not connect in time"
        return Requeue("rendezvous_failed", cause, f"{cause}{where}")
    if exited.status == ExitCode.OUT_OF_MEMORY:
        return _failed("out_of_memory", f"the run ran out of memory ({line}); {_memory_advice(claim.kind)}{where}")
    if exited.status in (ExitCode.DISK_FULL, ExitCode.READ_ONLY):
        return storage_failure(FailureCode[ExitCode(exited.status).name], run_dir.path)
    if exited.status == ExitCode.OK:
        return _failed("no_result", f"the process ended without a result{where}")
    rule = infrastructure_cause(read_log_lines(log_file, exited.log_start))
    if exited.status < 0 and rule is RULES["network"]:
        rule = None  # the other ranks lost the one that the signal ended
    if rule is not None:
        return Requeue(rule.cause, f"{rule.meaning} ({line})", f"{rule.meaning}: {line}{where}")
    if exited.status < 0:
        name = signal.Signals(-exited.status).name
        return _failed("crash", f"the process was ended by {name}: {line or 'its log is empty'}{where}")
    return _failed("crash", f"{line or f'the process ended with status {exited.status}'}{where}")


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
    """Exception line of the last traceback after byte ``start`` of a log, else its last line, else ''.

    A traceback of another kind than those of the table comes first: network errors of other ranks may follow it.
    """
    chains = list(_exception_chains(read_log_lines(log_file, start)))
    own = [chain for chain in chains if _rule_of(chain) is None]
    last = (own or chains or [[]])[-1]
    return last[-1].strip()[:_MAX_LINE] if last else ""


def read_log_lines(log_file: Path, start: int) -> list[str]:
    """The last 64 KiB after byte ``start``, by line."""
    with log_file.open("rb") as file:
        file.seek(max(start, file.seek(0, 2) - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()
