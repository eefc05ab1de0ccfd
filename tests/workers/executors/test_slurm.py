"""Jobs on a real slurmctld with several slurmd: whole runs, cancels, requeues, lost nodes, restarted workers, gangs."""

from __future__ import annotations

import json
import time

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import ExitCode, RunDir
from lcl_core.db import datasets, runs
from lcl_core.db.queue import EngineCapacity
from tests.small_spec import SMALL_PRETRAIN
from tests.workers.executors.slurm_cluster import slurm_cluster
from tests.workers.in_process_worker import InProcessWorker
from workers.executors.base import JobRequest
from workers.executors.slurm import SlurmExecutor
from workers.settings import NodeResources

pytestmark = pytest.mark.extended

NODES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), NODES) as cluster:
        yield cluster


@pytest.fixture
def executor(settings, cluster, monkeypatch, eventually):
    """With three free nodes, which are free again after the test."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.setenv("LCL_TOY_SECONDS", "0.05")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    executor = SlurmExecutor(settings)
    executor.query_seconds = 0.3
    with executor.serving([]):
        yield executor
    eventually(lambda: cluster.states() == ["idle"] * NODES, "the nodes' release")
    assert not cluster.jobs()


@pytest.fixture
def worker(database, settings, modules, executor):
    return InProcessWorker(database, settings, modules, executor)


@pytest.fixture
def trainer(database, settings, executor, modules, sample_zip):
    """Its runs are real trainings on the sample corpus."""
    with database.session() as session:
        datasets.register_sample(session).path = str(sample_zip)
    settings.data_roots = [sample_zip.parent]
    return InProcessWorker(database, settings, {"pretrain": "lcl_core.train"}, executor)


def job_of(run):
    return str(run.handle["job_id"])


def test_a_run_ends_as_on_this_machine(worker, queue, run_of, steps_of, monkeypatch):
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql://lcl:secret@db/lcl")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    run_id = queue(steps=4)
    worker.work()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("succeeded", 1, None), run.reason
    assert steps_of(run_id) == [1, 2, 3, 4]
    log = worker.run_dir(run_id).log_file.read_text()
    assert log.startswith("=== attempt 1 on in-process, ")
    assert "toy starts at 0" in log
    environment = run.result["final"]["environment"]
    assert environment["CUDA_VISIBLE_DEVICES"] == "", "it was given no GPU"
    assert environment["LCL_DATABASE_URL"] is None
    assert environment["RANK"] is None


def test_slurm_chooses_the_gpus_of_a_run(settings, modules, tmp_path, monkeypatch):
    (tmp_path / "cluster").mkdir()
    run_dir = prepared(tmp_path / "run", steps=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with slurm_cluster(tmp_path / "cluster", nodes=1, gpus=1) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
        small = {"*": NodeResources(cpus_per_gpu=1)}  # as the node, which has one
        executor = SlurmExecutor(settings.model_copy(update={"node_resources": small}))
        assert executor.capacity() == EngineCapacity("slurm", 1, 1.0, 1.0, True)
        with executor.start(JobRequest("toy_run", run_dir, "title", name="gpu", gpus=1), lambda handle: None) as job:
            assert until_exit(job) == ExitCode.OK
    result = json.loads(run_dir.result_file.read_text())
    assert result["final"]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("cause", ["node", "scancel", "requeue", "preemption"])
def test_a_job_that_slurm_ends_is_handed_back(worker, cluster, database, queue, run_of, steps_of, eventually, cause):
    """With a checkpoint, unless the machine has gone."""
    run_id = queue(steps=100_000, checkpoint_every=100_000)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    node = next(line.split()[2] for line in cluster.jobs())
    if cause == "node":
        cluster.update(node, "DOWN")
    elif cause == "scancel":
        cluster.run("scancel", job_of(run_of(run_id)))
    elif cause == "requeue":
        cluster.run("scontrol", "requeue", job_of(run_of(run_id)))
    else:
        options = ("--partition=urgent", f"--nodes={NODES}", "--output=/dev/null", "--wrap=true")
        assert cluster.run("sbatch", *options).returncode == 0
    worker.join()
    if cause == "node":
        cluster.resume(node)
    run = run_of(run_id)
    assert (run.state, run.attempt, run.handle) == ("queued", 0, None), run.reason
    assert run.setbacks == {"machine_lost": 1}
    assert "Slurm job" in run.interruption["message"]
    saved = json.loads((worker.run_dir(run_id).checkpoints / "state.json").read_text())
    assert saved["step"] >= 3
    with database.session() as session:
        runs.cancel_run(session, run_id)


def test_a_worker_that_is_killed_loses_no_attempt(cluster, executor, kill_worker_of_run):
    chosen = {"LCL_EXECUTOR": "slurm", "SLURM_CONF": str(cluster.configuration), "LCL_TOY_SECONDS": "0.05"}
    chosen |= {"LCL_LEASE_SECONDS": "16", "LCL_HEARTBEAT_SECONDS": "1"}  # which a busy machine keeps
    kill_worker_of_run(chosen)


def test_a_controller_that_is_away_stops_no_run(worker, executor, cluster, queue, run_of, steps_of, eventually):
    run_id = queue(steps=400)
    worker.start()
    eventually(lambda: len(steps_of(run_id)) >= 3, "steps")
    cluster.stop_controller()
    try:
        assert executor.capacity() is None
        reached = len(steps_of(run_id))
        eventually(lambda: len(steps_of(run_id)) > reached, "more steps")
    finally:
        cluster.start_controller()
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("succeeded", 1, None), run.reason


def test_a_job_that_does_not_fit_is_not_left_in_the_queue(
    worker, executor, modules, cluster, queue, run_of, tmp_path, monkeypatch
):
    run_id = queue(spec={"engine": {"nodes": NODES}})
    with executor.start(
        JobRequest("toy_run", prepared(tmp_path / "other"), "title", name="other"), lambda handle: None
    ):
        executor.wait_seconds = 1.0
        assert worker.try_claim() is None, "it does not fit"
        with monkeypatch.context() as patch:  # it has not heard yet of the job that has just started
            patch.setattr(executor, "capacity", lambda: EngineCapacity("slurm", NODES, float(NODES), 0.0, False))
            worker.work()
        run = run_of(run_id)
        assert (run.state, run.attempt, run.handle) == ("queued", 0, None)
        assert run.setbacks == {"no_capacity": 1}
        assert len(cluster.jobs()) == 1, "that of the other run"


def test_a_run_may_wait_in_the_queue_of_slurm(worker, settings, executor, cluster, queue, run_of, eventually):
    settings.slurm_queue = True
    executor.wait_seconds = float("inf")
    occupy(cluster, eventually)
    run_id = queue(steps=2)
    worker.start()
    eventually(lambda: any("PENDING" in job for job in cluster.jobs()), "the job")
    cluster.run("scancel", "--name=other")
    worker.join()
    run = run_of(run_id)
    assert (run.state, run.attempt, run.setbacks) == ("succeeded", 1, None), run.reason


def test_a_gang_has_a_process_on_each_node(trainer, queue, run_of):
    """Three ranks over gloo."""
    run_id = queue(spec={**SMALL_PRETRAIN, "steps": 3, "engine": {"nodes": NODES}})
    trainer.work()
    run = run_of(run_id)
    assert (run.state, run.attempt) == ("succeeded", 1), run.reason
    folder = trainer.run_dir(run_id)
    assert folder.log_file.exists()
    for number in (1, 2):
        assert f"node {number} of 3" in (folder.artifacts / f"log-{number}.txt").read_text()


def test_without_its_programs_slurm_is_not_chosen(settings, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="has no sbatch, squeue") as caught, SlurmExecutor(settings).serving([]):
        pass
    assert caught.value.code == "executor_missing"


def until_exit(job, seconds=60.0):
    deadline = time.monotonic() + seconds
    while (status := job.wait(0.2)) is None:
        assert time.monotonic() < deadline
    return int(status)


def occupy(cluster, eventually):
    """All nodes, by a job of somebody else."""
    options = (f"--nodes={NODES}", "--job-name=other", "--output=/dev/null", "--wrap=sleep 600")
    assert cluster.run("sbatch", *options).returncode == 0
    eventually(lambda: cluster.states() == ["allocated"] * NODES, "the other job")


def prepared(path, steps=100000):
    """For a toy that goes on until it is stopped."""
    path.mkdir()
    run_dir = RunDir(path)
    spec = {"steps": steps, "checkpoint_every": 100_000}
    run_dir.prepare(
        {"run_id": path.name, "kind": "pretrain", "spec": spec, "datasets": {}, "encoders": {}, "attempt": 1}
    )
    return run_dir
