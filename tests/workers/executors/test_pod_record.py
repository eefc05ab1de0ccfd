"""What single facts about pods mean for a job."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.executors.kubernetes_cluster import condition, moment
from workers.executors.pod_record import PodRecord, find_loss

RUNNING: dict[str, Any] = {"metadata": {"name": "jobset"}, "spec": {"suspend": False}}
START = 1_800_000_000.0


def record(code: int | None = None, at: float = 0.0, **facts: Any) -> PodRecord:
    """Of a pod whose process ended with that code, if it has."""
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code, "finishedAt": moment(START + at)}}
    pod = {"metadata": {"name": "a"}, "status": {"phase": "Running", "containerStatuses": [{"state": state}]}}
    found = PodRecord()
    found.merge(pod)
    for name, value in facts.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (75, 75), (137, -9), (143, -15), (139, -11), (128, 128)])
def test_an_exit_code_above_128_is_a_signal(code: int, status: int) -> None:
    assert record(code).status == status


def test_what_was_seen_once_stays() -> None:
    found = record(1, at=3)
    found.merge({"metadata": {"name": "a"}, "status": {"phase": "Pending"}})
    assert (found.status, found.started, found.ended) == (1, True, True)


def test_a_job_that_is_alive_has_lost_nothing() -> None:
    assert find_loss([record()], RUNNING, None) is None
    suspended = {**RUNNING, "spec": {"suspend": True}}
    assert find_loss([], suspended, None) is None, "it waits in a queue"
    assert find_loss([record()], suspended, None) is not None


def test_a_process_that_fails_while_others_are_cleaned_up_was_first() -> None:
    """Clocks of two machines differ a little."""
    failed, cleaned = record(1, at=10), record(143, at=12, deleted=START + 9)
    assert failed.failed_by_itself
    assert not cleaned.failed_by_itself
    loss = find_loss([failed, cleaned], RUNNING, None)
    assert loss is not None
    assert loss.follows(failed.finished)
    cleaned.deleted = START + 5
    loss = find_loss([failed, cleaned], RUNNING, None)
    assert loss is not None
    assert not loss.follows(failed.finished)


def test_the_job_knows_of_a_disruption_that_nobody_saw() -> None:
    """Its pod is gone, and another one has failed because of that."""
    failed, gone = record(1, at=10), record(gone=True)
    loss = find_loss([failed, gone], RUNNING, None)
    assert loss is not None
    assert loss.follows(failed.finished)
    job = {"status": {"conditions": [condition("FailureTarget", "PodFailurePolicy", "pod b was evicted")]}}
    loss = find_loss([failed, gone], RUNNING, job)
    assert loss is not None
    assert not loss.follows(failed.finished)
    assert "pod b was evicted" in loss.reason


def test_a_pod_that_its_node_did_not_admit_says_why() -> None:
    refused = PodRecord()
    refused.merge(
        {
            "metadata": {"name": "a"},
            "status": {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no GPU is left"},
        }
    )
    loss = find_loss([refused], RUNNING, None)
    assert loss is not None
    assert loss.reason == "pod a ended without its process: UnexpectedAdmissionError: no GPU is left"
