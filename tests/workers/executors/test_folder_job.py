"""How a job ends: what its engine and its nodes say together. The engine is a stub, and the nodes are files."""

from __future__ import annotations

import signal
from contextlib import nullcontext

import pytest

from lcl_core.common.run_dir import ExitCode, RunDir
from tests.workers.executors.kubernetes_cluster import condition
from workers.executors import folder_job
from workers.executors.base import EngineUnreachable, MachineLost
from workers.executors.folder_job import FolderExecutor, FolderJob, JobPhase
from workers.executors.job_folder import JobFolder, StartOrder
from workers.executors.kubernetes import GROUP
from workers.executors.kubernetes import job_state as state_of_jobset
from workers.executors.slurm import job_state


class AnsweringEngine(FolderExecutor):
    """It knows one job, in this state."""

    name = title = "Slurm"
    query_seconds = 0.0

    def __init__(self, settings, state=None):
        super().__init__(settings)
        self.state = state

    def serving(self, modules):
        return nullcontext()

    def capacity(self):
        return None

    def submit(self, request, name, gpus, folder):
        return "7"

    def find(self, name):
        return "7"

    def read_state(self, job_id, name):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def remove(self, job_id, name):
        self.state = None


@pytest.fixture
def job_in(settings, tmp_path):
    """A job of which the engine and its nodes say that."""

    def make(state, statuses, nodes=2):
        folder = JobFolder(tmp_path / "agent" / "job")
        folder.create(StartOrder("toy_run", str(tmp_path), "title", [], nodes, 0, "", 60.0, 60.0, 5.0))
        for number in range(nodes):
            folder.report(number, log_start=10 * number)
        for number, status in statuses.items():
            folder.report(number, status=status)
        state = job_state(state, "None", "n[1-2]") if isinstance(state, str) else state
        return FolderJob(AnsweringEngine(settings, state), "7", "owner", folder, RunDir(tmp_path), nodes)

    return make


@pytest.mark.parametrize(
    ("state", "statuses", "expected"),
    [
        ("RUNNING", {}, None),
        ("RUNNING", {0: 0}, None),
        ("RUNNING", {0: 0, 1: 0}, ExitCode.OK),
        ("COMPLETING", {0: ExitCode.CRASH}, None),
        ("FAILED", {0: ExitCode.CANCELLED, 1: ExitCode.CRASH}, ExitCode.CRASH),
        ("FAILED", {1: ExitCode.USER_ERROR}, ExitCode.USER_ERROR),
        ("FAILED", {}, -signal.SIGKILL),
        ("OUT_OF_MEMORY", {0: -signal.SIGKILL}, ExitCode.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", {}, ExitCode.OUT_OF_MEMORY),
        ("NODE_FAIL", {0: 0, 1: 0}, ExitCode.OK),
        (None, {0: ExitCode.CRASH, 1: ExitCode.CRASH}, ExitCode.CRASH),
        (EngineUnreachable("away"), {0: ExitCode.CRASH}, None),
        ("NODE_FAIL", {0: ExitCode.CRASH}, "a node failed"),
        ("PREEMPTED", {0: ExitCode.CANCELLED, 1: ExitCode.CANCELLED}, "it was preempted"),
        ("TIMEOUT", {}, "time limit"),
        ("CANCELLED", {0: -signal.SIGTERM}, "cancelled in Slurm"),
        ("PENDING", {0: ExitCode.CANCELLED, 1: ExitCode.CANCELLED}, "queued it again"),
        ("COMPLETED", {0: ExitCode.CANCELLED, 1: ExitCode.CANCELLED}, "was asked to end"),
        (None, {0: 0}, "does not know it"),
    ],
)
def test_the_end_of_a_job_is_what_its_engine_and_its_processes_say(job_in, state, statuses, expected):
    """A text: the machine is lost, and the attempt is not counted."""
    job = job_in(state, statuses)
    if isinstance(expected, str):
        with pytest.raises(MachineLost, match=expected):
            job.wait(0)
    else:
        assert job.wait(0) == expected


@pytest.mark.parametrize(("state", "paused"), [("SUSPENDED", True), ("STOPPED", True), ("RUNNING", False)])
def test_a_job_that_its_engine_suspends_is_paused(job_in, state, paused):
    job = job_in(state, {})
    assert not job.is_paused
    assert (job.wait(0), job.is_paused) == (None, paused)


def test_the_log_is_that_of_the_process_that_failed(job_in):
    job = job_in("FAILED", {0: ExitCode.CANCELLED, 1: ExitCode.CRASH})
    assert (job.wait(0), job.log_file.name, job.log_start) == (ExitCode.CRASH, "log-1.txt", 10)


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETED"])
def test_what_the_worker_has_stopped_is_not_lost(job_in, state):
    job = job_in(state, {0: ExitCode.CANCELLED})
    job.terminate()
    assert job.wait(0) == -signal.SIGKILL


def test_processes_of_a_node_that_is_cut_off_are_awaited_for_the_time_of_a_checkpoint(job_in):
    job = job_in("COMPLETING", {})
    assert job.wait(0) is None
    job._ending_seconds, job._query_at = -1.0, 0.0
    assert job.wait(0) == -signal.SIGKILL


def test_an_engine_that_does_not_answer_a_worker_that_re_attaches_has_lost_no_job(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_job, "PATIENCE_SECONDS", 0.1)
    folder = JobFolder(tmp_path / "agent" / "name")
    folder.create(StartOrder("toy_run", str(tmp_path), "title", [], 1, 0, "", 60.0, 300.0, 30.0))
    handle = {"executor": "Slurm", "name": "name", "nodes": 1, "job_id": "7"}
    with pytest.raises(EngineUnreachable, match="away"):
        AnsweringEngine(settings, EngineUnreachable("away")).attach(handle, RunDir(tmp_path))
    assert folder.control_file.stat().st_size == 0, "no sign of life, which would keep the job running"
    with pytest.raises(MachineLost, match="waited for a place"):
        AnsweringEngine(settings, job_state("PENDING")).attach(handle, RunDir(tmp_path))
    with pytest.raises(MachineLost, match="another executor"):
        AnsweringEngine(settings).attach({"executor": "ray"}, RunDir(tmp_path))


def pod(phase="Running", state="running", placed="True", deleted=False, disrupted=False, **facts):
    metadata = {"name": "p", **({"deletionTimestamp": "now"} if deleted else {})}
    conditions = [condition("PodScheduled", "", "no room", status=placed)]
    conditions += [condition("DisruptionTarget", "", "evicted")] if disrupted else []
    containers = [{"name": "proxy", "state": {}}, *([{"name": GROUP, "state": {state: facts}}] if state else [])]
    return {"metadata": metadata, "status": {"phase": phase, "conditions": conditions, "containerStatuses": containers}}


FAILED = condition("Failed", message="of a pod")


@pytest.mark.parametrize(
    ("pods", "changes", "phase", "said"),
    [
        ([], {}, JobPhase.PENDING, "not all of its pods"),
        ([pod(), pod("Pending", "", "False")], {}, JobPhase.PENDING, "no room"),
        ([pod(), pod("Pending", "waiting", reason="ImagePullBackOff")], {}, JobPhase.RUNNING, "ImagePullBackOff"),
        ([pod(), pod()], {}, JobPhase.RUNNING, ""),
        ([pod(), pod("Failed", "terminated", exitCode=1)], {}, JobPhase.RUNNING, ""),
        ([pod(deleted=True), pod("Failed", "terminated", exitCode=1)], {"failed": True}, JobPhase.ENDING, ""),
        ([pod("Failed", "terminated", exitCode=1)] * 2, {}, JobPhase.ENDED, ""),
        ([pod(disrupted=True), pod()], {}, JobPhase.RUNNING, ""),
        ([pod(disrupted=True, deleted=True), pod()], {}, JobPhase.ENDING, "p was disrupted: evicted"),
        ([pod("Succeeded", "terminated", disrupted=True, exitCode=0)] * 2, {}, JobPhase.ENDED, "was disrupted"),
        ([pod("Failed", "")] * 2, {}, JobPhase.ENDED, "ended without its process"),
        ([pod("Failed", "terminated", reason="ContainerStatusUnknown")] * 2, {}, JobPhase.ENDED, "does not know how"),
        ([], {"failed": True}, JobPhase.ENDED, "failed without a process that did: of a pod"),
        ([], {"suspend": True}, JobPhase.PENDING, "was suspended"),
        ([pod(deleted=True)], {"suspend": True}, JobPhase.ENDING, "was suspended"),
        ([pod(deleted=True)], {"deleted": True}, JobPhase.ENDING, ""),
    ],
)
def test_what_kubernetes_says_about_a_jobset(pods, changes, phase, said):
    spec = {"suspend": changes.get("suspend", False)}
    jobset = {
        "metadata": {"deletionTimestamp": "now"} if changes.get("deleted") else {},
        "spec": {**spec, "replicatedJobs": [{"template": {"spec": {"completions": 2}}}]},
        "status": {"conditions": [FAILED] if changes.get("failed") else []},
    }
    state = state_of_jobset(jobset, pods)
    assert state.phase is phase
    assert said in (state.loss or state.detail)
    assert bool(said) is bool(state.loss or state.detail)


def test_a_container_that_was_ended_for_its_memory_is_told():
    killed = pod("Failed", "terminated", reason="OOMKilled", exitCode=137)
    jobset = {"metadata": {}, "spec": {"replicatedJobs": [{"template": {"spec": {"completions": 1}}}]}}
    assert state_of_jobset(jobset, [killed]).out_of_memory
