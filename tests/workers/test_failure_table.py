"""What is tried again, how often and when; the manual shows the same table."""

from pathlib import Path

import pytest

from lcl_core.db.leases import COUNTED
from workers.failure_table import (
    INFRASTRUCTURE_RETRIES,
    LONGEST_DELAY_SECONDS,
    RULES,
    as_markdown,
    infrastructure_cause,
)

MANUAL = Path(__file__).parents[2] / "docs" / "runs.md"


def traceback(*last):
    return "\n".join(("Traceback (most recent call last):", '  File "a.py", line 1, in f', "    f()", *last))


NCCL = traceback(
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94, remote process exited",
    "ncclRemoteError: A call failed possibly due to a network error",
)
PORT = traceback("OSError: [Errno 98] Address already in use")
CHAINED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
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
        (WATCHDOG, "nccl"),
        (PORT + CHAINED + traceback("RuntimeError: cannot start the ranks"), "address_in_use"),
        (
            traceback('botocore.exceptions.EndpointConnectionError: Could not connect to "http://s3"'),
            "store_unreachable",
        ),
        (traceback("RuntimeError: CUDA error: uncorrectable ECC error encountered"), "gpu_fault"),
        (f"{NCCL}\n{OURS}", None),  # the other rank is the cause
        (f"warning: NCCL error ignored\n{OURS}", None),
        ("", None),
    ],
)
def test_the_cause_is_what_all_exceptions_have_in_common(log, cause):
    rule = infrastructure_cause(log.splitlines())
    assert (rule and rule.cause) == cause


@pytest.mark.parametrize(
    ("cause", "setbacks", "max_attempts", "exhausted", "delay"),
    [
        ("nccl", {}, 3, False, 10.0),
        ("nccl", {"nccl": 2}, 3, False, 40.0),
        ("nccl", {"nccl": INFRASTRUCTURE_RETRIES - 1, COUNTED: 99}, 3, False, LONGEST_DELAY_SECONDS),
        ("nccl", {"nccl": INFRASTRUCTURE_RETRIES}, 3, True, LONGEST_DELAY_SECONDS),
        ("killed", {COUNTED: 1}, 3, False, 0.0),
        ("killed", {COUNTED: 2}, 3, True, 0.0),
        ("hung", {}, 3, False, 0.0),
        ("hung", {"hung": 1, COUNTED: 1}, 30, True, 0.0),
        ("interrupted", {"interrupted": 1000, COUNTED: 2}, 1, False, 0.0),
        ("no_capacity", {"no_capacity": 1000, COUNTED: 5}, 1, False, 10.0),
    ],
)
def test_how_often_and_when_a_cause_is_tried_again(cause, setbacks, max_attempts, exhausted, delay):
    rule = RULES[cause]
    assert (rule.exhausted(setbacks, max_attempts), rule.delay_seconds(setbacks)) == (exhausted, delay)


def test_the_manual_has_the_table():
    assert as_markdown() in MANUAL.read_text(encoding="utf-8"), "docs/runs.md: the table is not workers.failure_table's"
