"""What single facts about pods mean for a job."""

from __future__ import annotations

from typing import Any

import pytest

from lcl_core.common.run_dir import ExitCode
from tests.workers.executors.kubernetes_cluster import condition, moment
from workers.executors.jobset import GROUP
from workers.executors.pod_record import PodRecord, find_loss

RUNNING: dict[str, Any] = {"metadata": {"name": "jobset"}, "spec": {"suspend": False}}
START = 1_800_000_000.0


def record(code=None, at=0.0, **facts):
    """Of a pod whose process ended with that code, if it has."""
    state = {"running": {}} if code is None else {"terminated": {"exitCode": code, "finishedAt": moment(START + at)}}
    found = PodRecord()
    found.merge(pod_with({"name": GROUP, "state": state}))
    for name, value in facts.items():
        setattr(found, name, value)
    return found


def pod_with(*containers):
    return {"metadata": {"name": "a"}, "status": {"phase": "Running", "containerStatuses": [*containers]}}


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (75, 75), (137, -9), (143, -15), (139, -11), (128, 128)])
def test_an_exit_code_above_128_is_a_signal(code, status):
    assert record(code).status == status


@pytest.mark.parametrize(
    ("code", "status"), [(137, ExitCode.OUT_OF_MEMORY), (1, ExitCode.OUT_OF_MEMORY), (0, 0), (75, 75), (143, -15)]
)
def test_a_process_that_the_kernel_killed_for_its_memory_is_out_of_memory(code, status):
    """The kubelet says so too where a helper was killed; what the process made of that counts."""
    found = PodRecord()
    ended = {"exitCode": code, "reason": "OOMKilled", "finishedAt": moment(START)}
    found.merge(pod_with({"name": GROUP, "state": {"terminated": ended}}))
    assert (found.status, found.finished) == (status, START)


@pytest.mark.parametrize("order", [1, -1])
def test_a_container_that_was_injected_says_nothing_about_the_process(order):
    failed = {"terminated": {"exitCode": 2, "finishedAt": moment(START)}}
    sidecar = {"name": "istio-proxy", "state": failed}
    found = PodRecord()
    found.merge(pod_with(*[{"name": GROUP, "state": {"waiting": {"reason": "ImagePullBackOff"}}}, sidecar][::order]))
    assert (found.status, found.started, found.ended, found.waiting) == (None, False, False, "ImagePullBackOff")
    done = {"name": GROUP, "state": {"terminated": {"exitCode": 0, "finishedAt": moment(START)}}}
    found.merge(pod_with(*[done, {**sidecar, "state": {"running": {}}}][::order]))
    assert (found.status, found.ended) == (0, True)


def test_what_was_seen_once_stays():
    found = record(1, at=3)
    found.merge({"metadata": {"name": "a"}, "status": {"phase": "Pending"}})
    assert (found.status, found.started, found.ended) == (1, True, True)


def test_a_job_that_is_alive_has_lost_nothing():
    assert find_loss([record()], RUNNING, None) is None
    suspended = {**RUNNING, "spec": {"suspend": True}}
    assert find_loss([], suspended, None) is None, "it waits in a queue"
    assert find_loss([record()], suspended, None) is not None


def test_a_process_that_fails_while_others_are_cleaned_up_was_first():
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


def test_the_job_knows_of_a_disruption_that_nobody_saw():
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


def test_a_pod_that_its_node_did_not_admit_says_why():
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
