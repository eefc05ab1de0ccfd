"""How a job ends: what its engine and its nodes say together. The engine is a stub, and the nodes are files."""

from __future__ import annotations

import json
import os
import signal
from contextlib import nullcontext

import pytest

from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db import runs
from lcl_core.db.workers import WorkerIdentity, engine_device, record_heartbeat
from tests.workers.executors.kubernetes_cluster import condition
from tests.workers.executors.process_engine import ProcessEngine
from tests.workers.in_process_worker import InProcessWorker
from workers.executors import folder_job
from workers.executors.base import EngineUnreachable, JobRequest, MachineLost, node_log_name
from workers.executors.folder_job import FolderExecutor, FolderJob, JobPhase
from workers.executors.job_folder import JobFolder, StartOrder
from workers.executors.kubernetes import GROUP
from workers.executors.kubernetes import job_state as state_of_jobset
from workers.executors.slurm import job_state
from workers.maintenance import end_unwanted_jobs


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
        folder.create(StartOrder("toy_run", str(tmp_path), "title", [], nodes, 0, 60.0, 60.0, 5.0))
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


def test_of_nodes_that_crashed_the_one_with_an_error_of_its_own_counts(job_in):
    job = job_in("FAILED", {0: ExitCode.CRASH, 1: ExitCode.CRASH})
    logs = ["RuntimeError: [/gloo/transport/tcp/pair.cc:553] Connection closed by peer", "ValueError: a broken image"]
    for number, line in enumerate(logs):
        log_file = job._run_dir.path / node_log_name(number)
        log_file.parent.mkdir(exist_ok=True)
        log_file.write_text(" " * 10 + f"\n{line}\n")
    assert (job.wait(0), job.log_file.name) == (ExitCode.CRASH, "log-1.txt")


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
    folder.create(StartOrder("toy_run", str(tmp_path), "title", [], 1, 0, 60.0, 300.0, 30.0))
    handle = {"executor": "Slurm", "name": "name", "nodes": 1, "job_id": "7"}
    with pytest.raises(EngineUnreachable, match="away"):
        AnsweringEngine(settings, EngineUnreachable("away")).attach(handle, RunDir(tmp_path))
    assert folder.control_file.stat().st_size == 0, "no sign of life, which would keep the job running"
    with pytest.raises(MachineLost, match="waited for a place"):
        AnsweringEngine(settings, job_state("PENDING")).attach(handle, RunDir(tmp_path))
    with pytest.raises(MachineLost, match="another executor"):
        AnsweringEngine(settings).attach({"executor": "ray"}, RunDir(tmp_path))


def pod(phase="Running", state="running", placed="True", deleted=False, disrupted=False, why="no room", **facts):
    metadata = {"name": "p", **({"deletionTimestamp": "now"} if deleted else {})}
    conditions = [condition("PodScheduled", "", why, status=placed)]
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


@pytest.mark.parametrize(
    ("stuck", "refused"),
    [
        (pod("Pending", "waiting", reason="CreateContainerConfigError", message='secret "s3" not found'), True),
        (pod("Pending", "waiting", reason="ImagePullBackOff", message="ErrImagePull: lcl:2: not found"), True),
        (pod("Pending", "", "False", why='persistentvolumeclaim "home" not found'), True),
        (pod("Pending", "", "False", why="0/3 nodes are available: 3 Insufficient nvidia.com/gpu"), False),
    ],
)
def test_a_pod_that_never_starts_is_told_from_one_that_waits(stuck, refused):
    jobset = {"metadata": {}, "spec": {"replicatedJobs": [{"template": {"spec": {"completions": 2}}}]}}
    state = state_of_jobset(jobset, [pod(), stuck])
    assert state.refusal == (state.detail if refused else "")


def test_a_container_that_was_ended_for_its_memory_is_told():
    killed = pod("Failed", "terminated", reason="OOMKilled", exitCode=137)
    jobset = {"metadata": {}, "spec": {"replicatedJobs": [{"template": {"spec": {"completions": 1}}}]}}
    assert state_of_jobset(jobset, [killed]).out_of_memory


@pytest.fixture
def engine(settings, modules, monkeypatch):
    """Jobs are processes of this machine. After the test none is left."""
    monkeypatch.setenv("LCL_TOY_SECONDS", "0.05")
    monkeypatch.setattr(folder_job, "KILL_SECONDS", 0.5)
    engine = ProcessEngine(settings)
    yield engine
    assert not engine.jobs


@pytest.fixture
def worker(database, settings, modules, engine):
    return InProcessWorker(database, settings, modules, engine)


def prepared(path):
    """For a toy that goes on until it is stopped."""
    path.mkdir()
    run_dir = RunDir(path)
    spec = {"steps": 100_000, "checkpoint_every": 100_000}
    run_dir.prepare({"run_id": "r", "kind": "pretrain", "spec": spec, "datasets": {}, "encoders": {}, "attempt": 1})
    return run_dir


def until_exit(job):
    while (status := job.wait(0.2)) is None:
        pass
    return status


def test_a_worker_that_leaves_lets_its_run_go_on(
    worker, database, settings, modules, engine, queue, run_of, steps_of, eventually
):
    run_id = queue(steps=60)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    pid = run_of(run_id).progress["pid"]
    worker.stopping.set()
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.lease_token) == ("queued", 0, None)
    assert run.handle["executor"] == "process"
    successor = InProcessWorker(database, settings, modules, engine)
    assert successor.start().attempt == 1
    successor.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks, run.handle) == ("succeeded", 1, None, None)
    assert run.progress["pid"] == pid, "the process of the beginning"
    assert steps_of(run_id) == list(range(1, 61))
    assert worker.run_dir(run_id).log_file.read_text().count("=== attempt") == 1


def test_a_run_that_is_cancelled_without_a_worker_is_ended_by_the_next_one(
    worker, database, settings, engine, queue, run_of, steps_of, eventually
):
    settings.executor = "process"
    run_id = queue(steps=100_000, checkpoint_every=100_000)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    worker.stopping.set()
    worker.join()
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("next", "host", 1, 1, (engine_device("process"),)))
    assert end_unwanted_jobs(database, settings, engine, "next") == 0, "it waits for a worker"
    with database.session() as session:
        runs.cancel_run(session, run_id)
    assert end_unwanted_jobs(database, settings, engine, "next") == 1
    saved = json.loads((worker.run_dir(run_id).checkpoints / "state.json").read_text())
    assert saved["step"] >= 3, "it had time for a checkpoint"
    assert (run_of(run_id).state, run_of(run_id).handle) == ("cancelled", None)


def test_a_run_survives_an_engine_that_is_away(worker, engine, monkeypatch, queue, run_of, steps_of, eventually):
    monkeypatch.setattr(folder_job, "_UNREACHABLE_SECONDS", 0.1)
    run_id = queue(steps=40)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    engine.is_away = True
    eventually(worker.run_dir(run_id).result_file.exists, "the result")
    engine.is_away = False
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("succeeded", 1, None)


def test_a_job_is_ended_by_its_owner_alone_and_without_its_engine_too(engine, tmp_path, eventually):
    run_dir, handles = prepared(tmp_path / "run"), []
    with engine.start(JobRequest("toy_run", run_dir, "title", name="fenced"), handles.append) as first:
        assert ["job_id" in handle for handle in handles] == [False, True]
        eventually(run_dir.metrics_file.exists, "a step")
        with pytest.raises(MachineLost, match="does not know its job"):
            engine.attach({**handles[0], "job_id": "of-another"}, run_dir)
        with engine.attach(handles[0], run_dir) as second:  # by its name alone
            first.terminate()
            first.kill()
            assert second.wait(1.0) is None, "it goes on"
            engine.is_away = True
            assert second.kill() == -signal.SIGKILL
        engine.is_away = False
    engine.remove(handles[1]["job_id"], handles[1]["name"])


def test_without_a_worker_a_job_saves_its_state_and_ends(engine, tmp_path, eventually):
    engine.orphan_seconds = 2.0
    run_dir, handles = prepared(tmp_path / "run"), []
    with engine.start(JobRequest("toy_run", run_dir, "title", name="orphan"), handles.append) as job:
        eventually(run_dir.metrics_file.exists, "a step")
        assert job.detach()
    eventually((run_dir.checkpoints / "state.json").exists, "the checkpoint")
    with engine.attach(handles[-1], run_dir) as job, pytest.raises(MachineLost, match="was asked to end"):
        until_exit(job)


def test_the_nodes_of_a_run_meet_and_the_log_is_that_of_the_one_that_failed(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    (tmp_path / "second_node_fails.py").write_text(
        "import os, sys, time\n"
        "print('node', os.environ['LCL_NODE'], 'of', os.environ['LCL_NODES'], 'at', os.environ['LCL_MEETING'])\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read() if os.environ['LCL_NODE'] == '0' else time.sleep(1)\n"
        "sys.exit(65)\n"
    )
    run_dir = prepared(tmp_path / "run")
    request = JobRequest("second_node_fails", run_dir, "title", name="run_gang", nodes=2)
    with engine.start(request, lambda handle: None) as job:
        assert until_exit(job) == ExitCode.USER_ERROR
        assert job.log_file == run_dir.artifacts / "log-1.txt"
        written = job.log_file.read_bytes()[job.log_start :].decode()
    assert written.startswith("node 1 of 2 at 127.0.0.1:")
    assert "=== title, node 1 of 2, " in job.log_file.read_text()
    assert "node 0 of 2" in run_dir.log_file.read_text()
