"""Arguments of Slurm's commands, and what their answers mean. The answers are those of Slurm 24.11."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from workers.executors import slurm as slurm_module
from workers.executors.base import EngineUnreachable, JobRequest, NoCapacity
from workers.executors.folder_job import JobPhase
from workers.executors.job_folder import JobFolder
from workers.executors.slurm import (
    NodeCapacity,
    SlurmExecutor,
    job_environment,
    job_state,
    parse_nodes,
)
from workers.settings import WorkerSettings

# sinfo --noheader --Node --Format=NodeList:|,Partition:|,StateLong:|,CPUsState:|,Gres:|,GresUsed:|
NODES = """
n1|main*|mixed|1/1/0/2|gpu:a100:2,nic:1|gpu:a100:1(IDX:1),nic:0|
n1|urgent|mixed|1/1/0/2|gpu:a100:2,nic:1|gpu:a100:1(IDX:1),nic:0|
n2|main*|idle|0/1/0/1|gpu:1|gpu:0|
n3|main*|drained|0/0/1/1|(null)|(null)|
n4|main*|down|0/0/1/1|(null)|(null)|
n5|main*|idle|0/1/0/1|(null)|(null)|
n6|main*|draining|1/0/0/1|(null)|(null)|
n7|main*|idle~|0/8/0/8|gpu:h100:8(S:0-1)|gpu:h100:0(IDX:N/A)|
n8|main*|idle*|0/8/0/8|(null)|(null)|
n9|main*|mixed|3/5/0/8|gpu:8(S:0-1)|gpu:(null):3(IDX:0-2)|
n10|urgent|idle|0/4/0/4|(null)|(null)|
n11|main*|reserved|0/4/0/4|(null)|(null)|
n12|main*|maint|0/4/0/4|(null)|(null)|
n13|main*|maint*|0/4/0/4|(null)|(null)|
n14|main*|allocated$|4/0/0/4|(null)|(null)|
n15|main*|draining$|4/0/0/4|(null)|(null)|
"""
# squeue --noheader --me --states=all --format=%i|%T|%r|%N|%j
JOBS = """
7|RUNNING|None|n1|lcl-run_1-0a1b
8|COMPLETING|NodeDown|n1|lcl-run_2-0a1b
9|CANCELLED|Resources||a|b
"""
ANSWERS = {
    "unknown": ("", "slurm_load_jobs error: Invalid job id specified", 1),
    "away": ("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1),
    "partition": (
        "",
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
        1,
    ),
    "limit": (
        "",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
        "and/or time limits)",
        1,
    ),
    "time": (
        "",
        "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        1,
    ),
    "at most": ("", "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed", 1),
    "jobs": (JOBS, "", 0),
    "nothing": ("", "", 0),
    "nodes": (NODES, "", 0),
    "submitted": ("11;lcl\n", "", 0),
    "ended": ("", "scancel: error: Kill job error on job step id 9.0: Invalid job id specified", 1),
}


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Make a program answer as recorded; returns the file with the arguments and the environment of its last call."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def record(program, name):
        output, problem, status = ANSWERS[name]
        called = tmp_path / f"{program}.json"
        file = tmp_path / program
        file.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"json.dump([sys.argv[1:], dict(os.environ)], open({str(called)!r}, 'w'))\n"
            f"sys.stdout.write({output!r}); sys.stderr.write({problem!r}); sys.exit({status})\n"
        )
        file.chmod(0o755)
        return called

    return record


@pytest.fixture
def executor():
    return SlurmExecutor(WorkerSettings())


def test_nodes_that_take_jobs_and_what_is_free():
    assert parse_nodes(NODES.split()) == [
        NodeCapacity("n1", 2, 1, 2, 1),
        NodeCapacity("n2", 1, 1, 1, 1),
        NodeCapacity("n5", 1, 1, 0, 0),
        NodeCapacity("n7", 8, 8, 8, 8),
        NodeCapacity("n9", 8, 5, 8, 5),
    ]


@pytest.mark.parametrize(
    ("environment", "asked", "counted"),
    [
        ({}, None, ["n1", "n2", "n5", "n7", "n9"]),
        ({"SBATCH_PARTITION": "main,urgent"}, "main,urgent", ["n1", "n2", "n5", "n7", "n9", "n10"]),
        ({"SBATCH_RESERVATION": "team"}, None, ["n1", "n2", "n5", "n7", "n9", "n11", "n12", "n14"]),
    ],
)
def test_nodes_are_those_to_which_sbatch_submits(executor, answer, monkeypatch, environment, asked, counted):
    """sinfo answers here as if it did not select."""
    called = answer("sinfo", "nodes")
    for name in ("SBATCH_PARTITION", "SBATCH_RESERVATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert [node.name for node in executor.nodes()] == counted
    arguments, _ = json.loads(called.read_text())
    assert [each for each in arguments if "partition" in each] == ([f"--partition={asked}"] if asked else [])


def test_one_squeue_answers_for_all_jobs_of_a_worker(executor, answer, monkeypatch):
    called, clock = answer("squeue", "jobs"), SimpleNamespace(now=100.0)
    monkeypatch.setattr(slurm_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    assert executor.read_state("7", "lcl-run_1-0a1b") == job_state("RUNNING", "None", "n1")
    called.unlink()
    assert executor.read_state("9", "a|b") == job_state("CANCELLED", "Resources", "")
    assert executor.read_state("7", "lcl-run_3-0a1b") is None, "its id is another job's by now"
    assert executor.read_state("10", "unknown") is None
    assert not called.exists()
    clock.now += 4
    answer("squeue", "away")
    for _ in range(2):
        with pytest.raises(EngineUnreachable, match="Unable to contact"):
            executor.read_state("7", "lcl-run_1-0a1b")
        called.unlink(missing_ok=True)
    assert not called.exists(), "a controller that is away is asked once for all jobs too"


@pytest.mark.parametrize(
    ("state", "phase", "lost"),
    [
        ("PENDING", JobPhase.PENDING, True),
        ("CONFIGURING", JobPhase.PENDING, True),
        ("REQUEUE_HOLD", JobPhase.PENDING, True),
        ("RUNNING", JobPhase.RUNNING, False),
        ("SUSPENDED", JobPhase.RUNNING, False),
        ("A_LATER_VERSION", JobPhase.RUNNING, False),
        ("COMPLETING", JobPhase.ENDING, False),
        ("COMPLETED", JobPhase.ENDED, False),
        ("FAILED", JobPhase.ENDED, False),
        ("OUT_OF_MEMORY", JobPhase.ENDED, False),
        *((state, JobPhase.ENDED, True) for state in ("CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL")),
    ],
)
def test_states(state, phase, lost):
    found = job_state(state)
    assert found.phase is phase
    assert bool(found.loss) is lost


def test_a_job_is_submitted_with_arguments_alone(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/other.conf")
    monkeypatch.setenv("SBATCH_PARTITION", "gpu")
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql+psycopg://lcl:secret@db/lcl")
    called, folder = answer("sbatch", "submitted"), tmp_path / "$(a folder)"
    folder.mkdir()
    executor = SlurmExecutor(WorkerSettings(node_resources={"pretrain": {"cpus_per_gpu": 4, "memory_per_gpu": 8}}))
    request = JobRequest("m", RunDir(tmp_path), "title", env={"MORE": "x"}, nodes=2, gpus=8, kind="pretrain")
    assert executor.submit(request, "lcl-run_1-0a1b", 8, JobFolder(folder)) == "11"
    arguments, environment = json.loads(called.read_text())
    script = arguments.index(str(folder / "batch.sh"))
    assert {"--parsable", "--nodes=2", "--gpus-per-node=8", "--requeue"} <= {*arguments[:script]}
    assert {"--mem=64G", "--cpus-per-task=32", "--signal=TERM@60", "--export=ALL"} <= {*arguments[:script]}
    assert arguments[script + 1] == "srun"
    assert arguments[-2:] == ["workers.executors.node_agent", str(folder)]
    assert "$(a folder)" not in (folder / "batch.sh").read_text()
    assert [environment[name] for name in ("SLURM_CONF", "MORE", "SBATCH_PARTITION")] == ["/etc/other.conf", "x", "gpu"]
    assert "secret" not in called.read_text()


def test_a_node_gets_processors_and_memory_by_kind_and_gpus():
    settings = WorkerSettings(
        node_resources='{"pretrain": {"cpus_per_gpu": 12, "memory_per_gpu": 64}, "*": {"cpus": 6}}'
    )
    assert settings.resources_of("pretrain", 8).model_dump(include={"cpus", "memory", "shm"}) == {
        "cpus": 96,
        "memory": 512,
        "shm": 16,
    }
    assert (settings.resources_of("validate", 0).cpus, settings.resources_of("pretrain", 0).cpus) == (6, 1)
    assert settings.least_cpus == 1


def test_what_is_true_of_the_workers_machine_alone_stays_there():
    worker = {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7", "LCL_HOME": "/lcl"}
    environment = job_environment({**worker, "AWS_SECRET_ACCESS_KEY": "x"}, {})
    assert environment["LCL_HOME"] == "/lcl"
    assert not {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "AWS_SECRET_ACCESS_KEY"} & environment.keys()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("partition", UserError, "Invalid partition name"),
        ("time", UserError, "Requested time limit is invalid"),
        ("limit", NoCapacity, "violates accounting/QOS policy"),
        ("at most", NoCapacity, "QOSMaxSubmitJobPerUserLimit"),
    ],
)
def test_a_refused_job(executor, answer, tmp_path, name, error, words):
    for program, said in (("sbatch", name), ("squeue", "nothing"), ("sinfo", "nodes")):
        answer(program, said)
    with pytest.raises(error, match=words):
        executor.start(JobRequest("toy_run", RunDir(tmp_path), "title", name="run_1"), lambda handle: None)
