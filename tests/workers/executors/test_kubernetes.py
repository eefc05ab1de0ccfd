"""Jobs on a stub of a Kubernetes cluster whose pods are processes of this machine. No real cluster is needed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db import runs
from lcl_core.db.workers import WorkerIdentity, engine_device, record_heartbeat
from tests.workers.executors.kubernetes_cluster import (
    EVENTS,
    JOBSETS,
    NAMESPACE,
    PODS,
    TOKEN,
    ApiServer,
    ProcessCluster,
    condition,
    serve_http,
)
from tests.workers.in_process_worker import InProcessWorker
from workers.executors import folder_job, kubernetes
from workers.executors.base import JobRequest, MachineLost, NoCapacity
from workers.executors.kubernetes import KubernetesExecutor
from workers.maintenance import end_unwanted_jobs
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended

HERE = Path(__file__).parents[1]
ROLE = HERE.parents[1] / "deploy" / "kubernetes" / "jobs" / "role.yaml"


@pytest.fixture
def cluster(tmp_path):
    path = f"{HERE}:{HERE.parents[1]}:{tmp_path}"
    cluster = ProcessCluster(
        {"PATH": os.environ["PATH"], "PYTHONPATH": path, "LCL_TOY_SECONDS": "0.05", "GOMP_SPINCOUNT": "100"}, tmp_path
    )
    yield cluster
    cluster.close()


@pytest.fixture
def address(cluster):
    with serve_http(cluster) as address:
        yield address


@pytest.fixture
def kubernetes_settings(settings, address, tmp_path):
    """For the cluster, with short waits."""
    settings.kubernetes_url, settings.kubernetes_namespace = address, NAMESPACE
    settings.kubernetes_image = "registry.example.org/lcl:1"
    settings.kubernetes_token_file = tmp_path / "token"
    settings.kubernetes_token_file.write_text(TOKEN)
    return settings


@pytest.fixture
def executor(kubernetes_settings, cluster):
    """After the test nothing may be left in the cluster, and nothing have been asked that the worker's role forbids."""
    executor = KubernetesExecutor(kubernetes_settings)
    executor.query_seconds = 0.2
    with executor.serving([]):
        yield executor
    assert not cluster.names(JOBSETS)
    assert not cluster.names(PODS)
    assert {permission(method, path) for method, path in cluster.requests} <= permissions()


def permission(method, path):
    """Resource and verb, by which a role allows a request."""
    is_one = path not in (JOBSETS, PODS, EVENTS)
    resource = path.split("/")[-2 if is_one else -1]
    verbs = {"POST": "create"}
    verbs |= {"GET": "get", "DELETE": "delete"} if is_one else {"GET": "list", "DELETE": "deletecollection"}
    return resource, verbs[method]


def permissions():
    """Those of the worker's role in the manifests."""
    objects = yaml.safe_load_all(ROLE.read_text(encoding="utf-8"))
    (role,) = [found for found in objects if found["kind"] == "Role"]
    return {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}


@pytest.fixture
def worker(database, kubernetes_settings, modules, executor):
    return InProcessWorker(database, kubernetes_settings, modules, executor)


def test_a_run_ends_as_on_this_machine(worker, monkeypatch, queue, run_of, steps_of):
    monkeypatch.setenv("LCL_DATABASE_URL", "sqlite:///elsewhere")
    worker.settings.kubernetes_gpu_resource = ""
    run_id = queue(steps=4)
    worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("succeeded", 1, None), run.reason
    assert steps_of(run_id) == [1, 2, 3, 4]
    log = worker.run_dir(run_id).log_file.read_text()
    assert log.startswith("=== attempt 1 on in-process, ")
    assert log.count("===") == 1
    assert "toy starts at 0" in log
    environment = run.result["final"]["environment"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "", "it was given no GPU"
    assert environment["LCL_DATABASE_URL"] is None
    assert environment["LCL_HOME"] == str(worker.settings.home)


def test_a_process_that_is_killed_counts_and_its_machine_does_not(
    worker, cluster, database, queue, run_of, steps_of, eventually
):
    run_id = queue(steps=100_000, checkpoint_every=100_000)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    os.kill(run_of(run_id).progress["pid"], signal.SIGKILL)
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt) == ("queued", 1)
    assert run.setbacks == {"attempts": 1, "killed": 1}
    worker.start()
    eventually(lambda: (run_of(run_id).progress or {}).get("attempt") == 2, "steps of the second attempt")
    (pod,) = cluster.names(PODS)
    evicted = condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")
    with cluster.changed:
        cluster.change(PODS, pod, status={"conditions": [evicted]})
        cluster.delete(PODS, pod, {})
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("queued", 1, None), "only the first one counts"
    assert run.setbacks is None or run.setbacks.get("attempts", 0) <= 1
    assert "Kubernetes job" in run.interruption["message"]
    saved = json.loads((worker.run_dir(run_id).checkpoints / "state.json").read_text())
    assert saved["step"] >= 3, "it had time for a checkpoint"
    with database.session() as session:
        runs.cancel_run(session, run_id)


def test_a_queue_of_kueue_says_when_a_run_starts_and_when_it_is_preempted(
    worker, executor, kubernetes_settings, cluster, database, queue, run_of, steps_of, eventually
):
    kubernetes_settings.kubernetes_queue = "team"
    executor.wait_seconds = 1.0
    run_id = queue(steps=100_000, checkpoint_every=100_000)
    worker.start()
    eventually(lambda: cluster.names(JOBSETS), "the JobSet")
    (name,) = cluster.names(JOBSETS)
    assert cluster.objects[JOBSETS][name]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert run_of(run_id).handle["name"] == name
    assert not cluster.names(PODS)
    cluster.change(JOBSETS, name, spec={"suspend": False})
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    cluster.change(JOBSETS, name, spec={"suspend": True})
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("queued", 0, None)
    assert run.checkpoint.startswith("state.json")
    with database.session() as session:
        runs.cancel_run(session, run_id)


def test_a_refusal_of_pods_is_told_as_the_cluster_has_it(worker, executor, cluster, queue, run_of):
    cluster.refusal = 'pods "x" is forbidden: exceeded quota: compute, requested: pods=1'
    executor.wait_seconds = 0.5
    run_id = queue()
    worker.work()
    run = run_of(run_id)
    assert (run.state, run.setbacks) == ("queued", {"no_capacity": 1})
    assert cluster.refusal in run.interruption["message"]


def test_without_room_others_get_their_turn(executor, cluster, tmp_path):
    cluster.has_room = False
    executor.wait_seconds = 0.5
    with pytest.raises(NoCapacity, match=r"no free capacity for 1 node .* Insufficient cpu"):
        executor.start(JobRequest("toy_run", prepared(tmp_path / "run"), "title", name="run_1"), lambda handle: None)
    cluster.answers = [403]
    with pytest.raises(UserError, match="Kubernetes refuses the job of the run: not now"):
        executor.start(JobRequest("toy_run", prepared(tmp_path / "other"), "title", name="run_2"), lambda handle: None)


def test_a_run_survives_an_api_server_that_is_away(worker, cluster, monkeypatch, queue, run_of, steps_of, eventually):
    monkeypatch.setattr(folder_job, "_UNREACHABLE_SECONDS", 0.1)
    run_id = queue(steps=100)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    cluster.is_away = True
    eventually(lambda: len(steps_of(run_id)) >= 100, "all steps, which RUN_DIR has")
    eventually(worker.run_dir(run_id).result_file.exists, "the result")
    cluster.is_away = False
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("succeeded", 1, None)


def test_a_worker_that_leaves_lets_its_run_go_on(
    worker, database, kubernetes_settings, modules, executor, queue, run_of, steps_of, eventually
):
    run_id = queue(steps=100)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    pid = run_of(run_id).progress["pid"]
    worker.stopping.set()
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.lease_token) == ("queued", 0, None)
    assert run.handle["executor"] == "kubernetes"
    assert run.handle["job_id"]
    successor = InProcessWorker(database, kubernetes_settings, modules, executor)
    assert successor.start().attempt == 1
    successor.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks, run.handle) == ("succeeded", 1, None, None)
    assert run.progress["pid"] == pid, "the process of the beginning"
    assert steps_of(run_id) == list(range(1, 101))
    assert worker.run_dir(run_id).log_file.read_text().count("=== attempt") == 1


def test_a_run_that_is_cancelled_without_a_worker_is_ended_by_the_next_one(
    worker, database, kubernetes_settings, cluster, executor, queue, run_of, steps_of, eventually
):
    kubernetes_settings.executor = "kubernetes"
    run_id = queue(steps=100_000, checkpoint_every=100_000)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    worker.stopping.set()
    worker.join()
    with database.session() as session:
        record_heartbeat(session, WorkerIdentity("next", "host", 1, 1, (engine_device("kubernetes"),)))
    assert end_unwanted_jobs(database, kubernetes_settings, executor, "next") == 0, "it waits for a worker"
    with database.session() as session:
        runs.cancel_run(session, run_id)
    assert end_unwanted_jobs(database, kubernetes_settings, executor, "next") == 1
    assert not cluster.names(JOBSETS)
    saved = json.loads((worker.run_dir(run_id).checkpoints / "state.json").read_text())
    assert saved["step"] >= 3, "it had time for a checkpoint"
    assert (run_of(run_id).state, run_of(run_id).handle) == ("cancelled", None)


def test_who_has_lost_a_job_cannot_stop_it(executor, tmp_path, eventually):
    run_dir, handles = prepared(tmp_path / "run"), []
    with executor.start(JobRequest("toy_run", run_dir, "title", name="fenced"), handles.append) as first:
        eventually(run_dir.metrics_file.exists, "a step")
        with executor.attach(json.loads(json.dumps(handles[-1])), run_dir) as second:
            first.terminate()
            first.kill()
            assert second.wait(2.5) is None, "it goes on"
            assert second.log_start == first.log_start
            second.terminate()
            assert until_exit(second) == ExitCode.CANCELLED
    with executor.attach(handles[-1], run_dir) as third, pytest.raises(MachineLost, match="was asked to end"):
        until_exit(third)


def test_a_worker_that_died_between_the_creation_and_the_second_note_loses_nothing(executor, tmp_path, eventually):
    """The name in the run's row is enough, and another object of that name is not taken for the job."""
    run_dir, handles = prepared(tmp_path / "run"), []
    with executor.start(JobRequest("toy_run", run_dir, "title", name="run"), handles.append) as job:
        eventually(run_dir.metrics_file.exists, "a step")
        job.detach()
    assert ["job_id" in handle for handle in handles] == [False, True]
    with pytest.raises(MachineLost, match="does not know its job"):
        executor.attach({**handles[0], "job_id": "of-another"}, run_dir)
    with executor.attach(handles[0], run_dir) as job:
        assert job.wait(0.1) is None


def test_a_job_is_ended_without_the_api_server_too(executor, cluster, tmp_path, monkeypatch, eventually):
    """Its pods read in the run's folder that no worker wants it."""
    monkeypatch.setattr(kubernetes, "_REMOVE_SECONDS", 0.5)
    run_dir = prepared(tmp_path / "run")
    with executor.start(JobRequest("toy_run", run_dir, "title", name="run"), lambda handle: None) as job:
        eventually(run_dir.metrics_file.exists, "a step")
        cluster.is_away = True
        assert job.kill() == -signal.SIGKILL
        (process,) = cluster.processes.values()
        eventually(lambda: process.poll() is not None, "the end of the process")
    cluster.is_away = False
    executor.remove(executor.find(job.identity["job"]), job.identity["job"])


def test_without_a_worker_a_job_saves_its_state_and_ends(executor, tmp_path, eventually):
    executor.orphan_seconds = 4.0
    run_dir, handles = prepared(tmp_path / "run"), []
    with executor.start(JobRequest("toy_run", run_dir, "title", name="orphan"), handles.append) as job:
        eventually(run_dir.metrics_file.exists, "a step")
        assert job.detach()
    eventually((run_dir.checkpoints / "state.json").exists, "the checkpoint")
    assert not run_dir.result_file.exists()
    with executor.attach(handles[-1], run_dir) as job, pytest.raises(MachineLost, match="was asked to end"):
        until_exit(job)


def test_all_nodes_of_a_run_are_pods_of_one_jobset(executor, cluster, tmp_path):
    (tmp_path / "second_node_fails.py").write_text(
        "import os, sys, time\n"
        "print('node', os.environ['LCL_NODE'], 'of', os.environ['LCL_NODES'], 'at', os.environ['LCL_MEETING'])\n"
        "sys.stdout.flush()\n"
        "time.sleep(600 if os.environ['LCL_NODE'] == '0' else 1)\n"
        "sys.exit(65)\n"
    )
    run_dir = prepared(tmp_path / "run")
    request = JobRequest("second_node_fails", run_dir, "title", name="run_gang", nodes=2)
    with executor.start(request, lambda handle: None) as job:
        assert until_exit(job) == ExitCode.USER_ERROR
        assert job.log_file == run_dir.artifacts / "log-1.txt"
        name = job.identity["job"]
        written = job.log_file.read_bytes()[job.log_start :].decode()
        assert written == f"node 1 of 2 at {name}-node-0-0.{name}:29500\n"
    assert "=== title, node 1 of 2, " in job.log_file.read_text()
    assert "node 0 of 2" in run_dir.log_file.read_text()


def test_settings_that_do_not_fit_say_what_is_missing(kubernetes_settings, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="LCL_KUBERNETES_IMAGE must name the image"):
        WorkerSettings(executor="kubernetes")
    with pytest.raises(ValueError, match="kubernetes_url"):
        WorkerSettings(kubernetes_url="http://10.0.0.1:6443")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="LCL_KUBERNETES_URL"):
        KubernetesExecutor(WorkerSettings())
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", "10GB")
    with pytest.raises(UserError, match="LCL_DATA_CACHE_BYTES is '10GB'"), refused(kubernetes_settings):
        pass
    monkeypatch.delenv("LCL_DATA_CACHE_BYTES")
    kubernetes_settings.kubernetes_token_file = tmp_path / "other"
    (tmp_path / "other").write_text("of somebody else")
    with pytest.raises(UserError, match=r"401.*role of deploy/kubernetes/jobs"), refused(kubernetes_settings):
        pass


def test_a_cluster_without_jobset_is_named(settings, tmp_path):
    api = ApiServer()
    del api.objects[JOBSETS]
    (tmp_path / "token").write_text(TOKEN)
    settings.kubernetes_namespace, settings.kubernetes_token_file = NAMESPACE, tmp_path / "token"
    with serve_http(api) as address:
        settings.kubernetes_url = address
        with pytest.raises(UserError, match="install JobSet"), refused(settings):
            pass


def refused(settings):
    return KubernetesExecutor(settings).serving([])


def until_exit(job):
    while (status := job.wait(0.2)) is None:
        pass
    return int(status)


def prepared(path):
    """For a toy that goes on until it is stopped."""
    path.mkdir()
    run_dir = RunDir(path)
    spec = {"steps": 100_000, "checkpoint_every": 100_000}
    run_dir.prepare(
        {"run_id": path.name, "kind": "pretrain", "spec": spec, "datasets": {}, "encoders": {}, "attempt": 1}
    )
    return run_dir
