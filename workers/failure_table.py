"""What follows when an attempt ends without a result: one table of causes, evidence and policies.

``workers.exit_outcome`` finds the cause, the supervisor acts on the policy, and docs/runs.md shows the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from lcl_core.db.leases import COUNTED, NO_CAPACITY, Setbacks

# between two attempts of a run whose machine, network or store failed; twice as long each time
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 10.0, 600.0
INFRASTRUCTURE_RETRIES = 10


class Policy(Enum):
    """What follows; the value is what docs/runs.md says."""

    COUNTED = "queued; the attempt is counted"
    AT_ONCE = "queued at once, or paused; not counted"
    DELAYED = "queued with a delay that doubles; not counted"
    WAITING = "queued again after 10 s, however often; not counted"
    FINAL = "failed at once"


@dataclass(frozen=True)
class FailureRule:
    """One row.

    Attributes:
        cause: code in the run's row.
        evidence: how it is recognised, for docs/runs.md.
        pattern: of the line of an exception, or of the last line of a log.
        retries: without a new checkpoint between them, if fewer than the policy has.
    """

    cause: str
    evidence: str
    policy: Policy
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


_TABLE = (
    FailureRule("worker_lost", "the lease ran out: the worker was killed, hung or cut off", Policy.COUNTED),
    FailureRule(
        "killed",
        "the process was ended from outside: SIGKILL by the system's memory guard, SIGTERM",
        Policy.COUNTED,
    ),
    FailureRule(
        "hung",
        "no progress until its deadline; artifact `stacks.txt` has the stacks of all its processes",
        Policy.COUNTED,
        retries=1,
    ),
    FailureRule("interrupted", "the worker is leaving, or the run is being paused", Policy.AT_ONCE),
    FailureRule("database_away", "the lease could not be renewed: the run was stopped at a checkpoint", Policy.AT_ONCE),
    FailureRule(
        "machine_lost",
        "the engine of the executor has lost a machine of the run, or does not answer a worker that re-attaches",
        Policy.DELAYED,
    ),
    FailureRule(NO_CAPACITY, "the engine has not enough free resources for the whole run at present", Policy.WAITING),
    FailureRule(
        "artifacts_pending",
        "the files of an input are still on the way to the artifact store",
        Policy.WAITING,
    ),
    FailureRule("run_dir_busy", "another process still has the lock of the run's folder", Policy.DELAYED),
    FailureRule(
        "store_unreachable",
        "object storage did not answer",
        Policy.DELAYED,
        _words(
            r"\b(EndpointConnectionError|ConnectTimeoutError|ReadTimeoutError|ConnectionClosedError)\b",
            r"\b(ServiceUnavailable|SlowDown|RequestTimeout|InternalError)\b.*\boperation\b",
            r"aiohttp\.client_exceptions\.(ClientConnector|ServerDisconnected|ServerTimeout)",
        ),
    ),
    FailureRule(
        "checkpoint_unreadable",
        "the storage of the run's checkpoints did not answer, or did not permit to read them",
        Policy.DELAYED,
    ),
    FailureRule(
        "gpu_fault",
        "an error of the GPU: ECC, fallen off the bus",
        Policy.DELAYED,
        _words(
            r"uncorrectable (NVLink |ECC )?error",
            r"\bECC error",
            r"GPU (has )?fallen off the bus",
            r"CUDA error: (unknown error|unspecified launch failure|device.*(unavailable|not ready))",
            r"CUDA driver.*(initialization|insufficient) error",
        ),
    ),
    FailureRule(
        "nccl",
        "an error of NCCL: network, a collective operation that timed out",
        Policy.DELAYED,
        _words(
            r"\bNCCL (error|communicator was aborted|watchdog)",
            r"\bnccl(System|Remote|Internal|UnhandledCuda)Error",
            r"Watchdog caught collective operation timeout",
        ),
    ),
    FailureRule(
        "address_in_use",
        "the port of the rendezvous was taken by another process (`EADDRINUSE`)",
        Policy.DELAYED,
        _words(r"\bEADDRINUSE\b", r"Address already in use"),
    ),
    FailureRule(
        "rendezvous_failed",
        "the processes of the run did not connect to each other within `LCL_RENDEZVOUS_SECONDS`",
        Policy.DELAYED,
    ),
    FailureRule("out_of_memory", "the process ran out of memory, or the GPU did", Policy.FINAL),
    FailureRule("disk_full", "no space is left; make room, then `lcl runs resume ID`", Policy.FINAL),
    FailureRule("read_only", "the folder is read-only; make it writable, then `lcl runs resume ID`", Policy.FINAL),
    FailureRule("timeout", "the run took longer than its `timeout_seconds`; resume it with a higher one", Policy.FINAL),
    FailureRule("crash", "any other exception, signal or exit status", Policy.FINAL),
    FailureRule("no_result", "the process ended in order, without a result", Policy.FINAL),
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
    found = [next((rule for rule in _TABLE if _matches(rule, chain)), None) for chain in _exception_chains(lines)]
    return None if not found or None in found else found[0]


def _matches(rule: FailureRule, chain: Sequence[str]) -> bool:
    return rule.pattern is not None and any(rule.pattern.search(line) for line in chain)


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


def as_markdown() -> str:
    """The table of docs/runs.md."""
    rows = [f"| `{rule.cause}` | {rule.evidence} | {_follows(rule)} |" for rule in _TABLE]
    return "\n".join(["| cause | the evidence | what follows |", "|---|---|---|", *rows])


def _follows(rule: FailureRule) -> str:
    if rule.retries is None:
        return rule.policy.value
    return f"{rule.policy.value}, {'once' if rule.retries == 1 else f'{rule.retries} times'} without a new checkpoint"
