"""Jobs on a real Ray cluster of several raylets: whole runs, lost nodes, restarted workers, cancels, gangs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from lcl_core.common.run_dir import RunDir
from lcl_core.db import datasets, runs
from lcl_core.db.queue import EngineCapacity
from lcl_core.part_runners import RAY_ADDRESS
from tests.small_spec import SMALL_PRETRAIN
from tests.workers.in_process_worker import InProcessWorker
from workers.executors.base import JobRequest, MachineLost
from workers.settings import WorkerSettings

pytestmark = pytest.mark.extended

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'lcl[ray]'")

from tests.workers.executors.ray_cluster import RayCluster, all_free, free_processors, quick_imports  # noqa: E402
from workers.executors.ray import RayExecutor, node_environment  # noqa: E402

HERE = Path(__file__).parents[1]
NODES = 3


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return quick_imports(tmp_path_factory.mktemp("quick") / "imports")


@pytest.fixture(scope="module")
def cluster(quick):
    path = f"{quick}:{HERE}:{HERE.parents[1]}"
    toys = {"PYTHONPATH": path, "LCL_TOY_SECONDS": "0.05", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = RayCluster({**toys, "OMP_NUM_THREADS": "1"})
    cluster.grow(NODES)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def connected(cluster):
    """This process is a driver, as a worker is."""
    with RayExecutor(WorkerSettings(ray_address=cluster.address)).serving([]):
        yield cluster


@pytest.fixture
def executor(settings, connected, eventually):
    """With three free nodes, which are free again after the test."""
    connected.grow(NODES)
    eventually(all_free(NODES), "three free nodes")
    yield RayExecutor(settings)
    eventually(all_free(len(connected.nodes)), "the nodes' release")


@pytest.fixture
def worker(database, settings, modules, executor):
    return InProcessWorker(database, settings, modules, executor)


@pytest.fixture
def trainer(database, settings, executor, sample_zip):
    """Its runs are real trainings on the sample corpus."""
    with database.session() as session:
        datasets.register_sample(session).path = str(sample_zip)
    settings.data_roots = [sample_zip.parent]
    return InProcessWorker(database, settings, {"pretrain": "lcl_core.train"}, executor)


def node_of(run):
    """Ray's id of the node that has the first process of a run."""
    actor = ray.get_actor(f"{run.handle['name']}-0", namespace="lcl")
    return str(ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())))


def test_a_run_ends_as_on_this_machine(worker, queue, run_of, steps_of):
    run_id = queue(steps=4)
    worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("succeeded", 1, None)
    assert steps_of(run_id) == [1, 2, 3, 4]
    log = worker.run_dir(run_id).log_file.read_text()
    assert log.startswith("=== attempt 1 on in-process, ")
    assert "toy starts at 0" in log
    environment = run.result["final"]["environment"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "", "it was given no GPU"
    assert environment["LCL_DATABASE_URL"] is None
    assert environment["RANK"] is None


def test_a_process_that_is_killed_counts_and_its_machine_does_not(
    worker, connected, database, queue, run_of, steps_of, eventually
):
    run_id = queue(steps=100_000)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    os.kill(run_of(run_id).progress["pid"], signal.SIGKILL)
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt) == ("queued", 1)
    assert run.setbacks == {"attempts": 1, "killed": 1}
    claim = worker.start()
    assert claim.attempt == 2
    eventually(lambda: (run_of(run_id).progress or {}).get("attempt") == 2, "steps of the second attempt")
    connected.kill_raylet(node_of(run_of(run_id)))
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("queued", 1, None), "only the first one counts"
    assert run.setbacks["machine_lost"] == 1
    assert "a node of the run was lost" in run.interruption["message"]
    with database.session() as session:
        runs.cancel_run(session, run_id)


def test_a_worker_that_is_killed_loses_no_attempt(quick, connected, executor, kill_worker_of_run):
    path = f"{quick}:{os.environ['PYTHONPATH']}"
    chosen = {"LCL_EXECUTOR": "ray", "LCL_RAY_ADDRESS": connected.address, "PYTHONPATH": path}
    chosen |= {"LCL_LEASE_SECONDS": "16", "LCL_HEARTBEAT_SECONDS": "1"}  # which a busy machine keeps
    kill_worker_of_run(chosen)


def test_without_a_worker_a_job_saves_its_state_and_gives_its_place_back(executor, tmp_path, eventually):
    run_dir = prepared(tmp_path / "run")
    executor.orphan_seconds = 2.0
    with executor.start(JobRequest("toy_run", run_dir, "title", name="orphan"), lambda handle: None) as job:
        eventually(run_dir.metrics_file.exists, "a step")
        assert job.detach()
    eventually(all_free(NODES), "the removal of the placement group")
    assert json.loads((run_dir.checkpoints / "state.json").read_text())["step"] >= 1
    assert not run_dir.result_file.exists()


def test_a_job_is_told_where_its_parts_can_be_executed(executor, connected, tmp_path, monkeypatch):
    request = JobRequest("toy_run", prepared(tmp_path / "run"), "title", name="parts")
    assert node_environment(request)[RAY_ADDRESS] == connected.address
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # no job gets the token
    assert RAY_ADDRESS not in node_environment(request)


@pytest.mark.parametrize("found", [True, False])
def test_a_job_that_waits_for_a_place_is_removed_without_its_worker(executor, tmp_path, monkeypatch, eventually, found):
    """Its worker was killed; another one finds it, or nobody does."""

    def check():
        raise KeyError("killed")

    executor.orphan_seconds, handles = 2.0, []
    request = JobRequest("toy_run", prepared(tmp_path / "run"), "title", name="waits", nodes=NODES, check=check)
    other = JobRequest("toy_run", prepared(tmp_path / "other"), "title", name="other")
    with executor.start(other, lambda handle: None):
        with monkeypatch.context() as patch:
            patch.setattr(executor, "_withdraw", lambda *_: None)
            with pytest.raises(KeyError):
                executor.start(request, handles.append)
        assert free_processors() == NODES - 1
        if found:
            with pytest.raises(MachineLost, match="waited for a place"):
                executor.attach(handles[0], request.run_dir)
    if not found:
        eventually(lambda: free_processors() == 0, "its place")
    eventually(all_free(NODES), "the removal of the placement group")


def test_a_gang_gets_all_its_nodes_or_none(
    trainer, settings, executor, queue, run_of, tmp_path, monkeypatch, eventually
):
    """Three ranks over gloo, on three nodes."""
    settings.engine_wait_seconds = 1.0
    run_id = queue(spec={**SMALL_PRETRAIN, "steps": 3, "engine": {"nodes": NODES}})
    other = prepared(tmp_path / "other")
    with executor.start(JobRequest("toy_run", other, "title", name="other"), lambda handle: None):
        eventually(lambda: free_processors() == NODES - 1, "a node that is in use")
        assert trainer.try_claim() is None, "it does not fit"
        with monkeypatch.context() as patch:  # it has not heard yet of the job that has just started
            patch.setattr(executor, "capacity", lambda: EngineCapacity("ray", NODES, float(NODES), 0.0, False))
            trainer.work()
        run = run_of(run_id)
        assert (run.state, run.attempt, run.handle) == ("queued", 0, None)
        assert run.setbacks == {"no_capacity": 1}
        eventually(lambda: free_processors() == NODES - 1, "a gang without a part")
    eventually(all_free(NODES), "three free nodes")

    def claimed():
        claim = trainer.try_claim()
        if claim is not None:
            trainer.supervise(claim)
        return claim is not None

    eventually(claimed, "the end of the delay")
    run = run_of(run_id)
    assert (run.state, run.attempt) == ("succeeded", 1), run.reason
    folder = trainer.run_dir(run_id)
    assert folder.log_file.exists()
    for number in (1, 2):
        assert f"node {number} of 3" in (folder.artifacts / f"log-{number}.txt").read_text()


def prepared(path):
    """For a toy that goes on until it is stopped."""
    path.mkdir()
    run_dir = RunDir(path)
    spec = {"steps": 100_000, "checkpoint_every": 100_000}
    run_dir.prepare(
        {"run_id": path.name, "kind": "pretrain", "spec": spec, "datasets": {}, "encoders": {}, "attempt": 1}
    )
    return run_dir
