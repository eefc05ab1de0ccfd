"""What is tried again, how often and when; the manual shows the same table."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcl_core.db.leases import COUNTED
from workers.failure_table import (
    INFRASTRUCTURE_RETRIES,
    LONGEST_DELAY_SECONDS,
    RULES,
    Policy,
    as_markdown,
    infrastructure_cause,
)

MANUAL = Path(__file__).parents[2] / "docs" / "runs.md"


def traceback(*last: str) -> str:
    return "\n".join(("Traceback (most recent call last):", '  File "a.py", line 1, in f', "    f()", *last))


NCCL = traceback(
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited",
    "ncclRemoteError: A call failed possibly due to a network error",
)
PORT = traceback("OSError: [Errno 98] Address already in use")
WRAPPED = traceback("OSError: [Errno 98] Address already in use") + (
    "\n\nThe above exception was the direct cause of the following exception:\n\n"
    + traceback("RuntimeError: cannot start the ranks")
)
STORE = traceback('botocore.exceptions.EndpointConnectionError: Could not connect to "http://s3/bucket"')
ECC = traceback("RuntimeError: CUDA error: uncorrectable ECC error encountered")
OURS = traceback("KeyError: 'image'")
WATCHDOG = (
    "[rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)\n"
    "terminate called after throwing an instance of 'c10::DistBackendError'\n"
    "  what():  NCCL watchdog thread terminated with exception"
)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (NCCL, "nccl"),
        (f"{NCCL}\n{NCCL}", "nccl"),
        (PORT, "address_in_use"),
        (WRAPPED, "address_in_use"),
        (STORE, "store_unreachable"),
        (ECC, "gpu_fault"),
        (WATCHDOG, "nccl"),
        (OURS, None),
        (f"{NCCL}\n{OURS}", None),  # the other rank is the cause
        (f"{OURS}\n{NCCL}", None),
        (f"warning: NCCL error ignored\n{OURS}", None),
        ("", None),
    ],
)
def test_the_cause_is_what_all_exceptions_have_in_common(log: str, cause: str | None) -> None:
    rule = infrastructure_cause(log.splitlines())
    assert (rule and rule.cause) == cause


def test_an_infrastructure_fault_is_repeated_ever_later_and_not_for_ever() -> None:
    rule = RULES["nccl"]
    delays = [rule.delay_seconds({"nccl": count}) for count in range(INFRASTRUCTURE_RETRIES)]
    assert delays[:3] == [10.0, 20.0, 40.0]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_SECONDS
    assert not rule.exhausted({"nccl": INFRASTRUCTURE_RETRIES - 1, COUNTED: 99}, 3)
    assert rule.exhausted({"nccl": INFRASTRUCTURE_RETRIES}, 3)


def test_a_hang_is_repeated_once_and_counted() -> None:
    rule = RULES["hung"]
    assert not rule.exhausted({}, 3)
    assert rule.exhausted({"hung": 1, COUNTED: 1}, 30)
    assert rule.exhausted({}, 1)


def test_what_asks_for_no_fault_is_never_exhausted() -> None:
    assert not RULES["interrupted"].exhausted({"interrupted": 1000, COUNTED: 2}, 1)


def test_a_run_without_a_place_waits_as_often_as_it_must() -> None:
    rule, often = RULES["no_capacity"], {"no_capacity": 1000, COUNTED: 5}
    assert rule.delay_seconds({}) == rule.delay_seconds(often) == 10.0
    assert not rule.exhausted(often, 1)
    assert not rule.uses_attempt


WAITING = (Policy.DELAYED, Policy.WAITING)


@pytest.mark.parametrize("rule", [rule for rule in RULES.values() if rule.policy not in WAITING])
def test_only_infrastructure_waits(rule: object) -> None:
    assert rule.delay_seconds({}) == 0.0  # type: ignore[attr-defined]


def test_the_manual_has_the_table() -> None:
    assert as_markdown() in MANUAL.read_text(encoding="utf-8"), "docs/runs.md: the table is not workers.failure_table's"
