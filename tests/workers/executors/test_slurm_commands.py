"""Arguments of Slurm's commands, and what their answers mean. The answers are those of Slurm 24.11."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from workers.executors import slurm as slurm_module
from workers.executors.base import EngineRefused, EngineUnreachable, JobRequest
from workers.executors.folder_job import JobPhase
from workers.executors.slurm import (
    NodeCapacity,
    SlurmCommands,
    SlurmExecutor,
    is_transient,
    job_environment,
    job_state,
    parse_nodes,
)
from workers.settings import NodeResources, WorkerSettings

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
def commands():
    return SlurmCommands(WorkerSettings())


def test_nodes_that_take_jobs_and_what_is_free():
    assert parse_nodes(NODES.split()) == [
        NodeCapacity("n1", 2, 1, 2, 1),
        NodeCapacity("n2", 1, 1, 1, 1),
        NodeCapacity("n5", 1, 1, 0, 0),
        NodeCapacity("n7", 8, 8, 8, 8),
        NodeCapacity("n9", 8, 5, 8, 5),
    ]


@pytest.mark.parametrize(
    ("setting", "environment", "asked", "counted"),
    [
        ("", {}, None, ["n1", "n2", "n5", "n7", "n9"]),
        ("", {"SBATCH_PARTITION": "main,urgent"}, "main,urgent", ["n1", "n2", "n5", "n7", "n9", "n10"]),
        ("urgent", {"SBATCH_PARTITION": "main"}, "urgent", ["n1", "n2", "n5", "n7", "n9", "n10"]),
        ("", {"SBATCH_RESERVATION": "team"}, None, ["n1", "n2", "n5", "n7", "n9", "n11", "n12", "n14"]),
    ],
)
def test_nodes_are_those_to_which_sbatch_submits(answer, monkeypatch, setting, environment, asked, counted):
    """sinfo answers here as if it did not select."""
    called = answer("sinfo", "nodes")
    for name in ("SBATCH_PARTITION", "SBATCH_RESERVATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = SlurmCommands(WorkerSettings(slurm_partition=setting)).nodes()
    assert [node.name for node in found] == counted
    arguments, _ = json.loads(called.read_text())
    assert [each for each in arguments if "partition" in each] == ([f"--partition={asked}"] if asked else [])


def test_one_squeue_answers_for_all_jobs_of_a_worker(commands, answer, tmp_path, monkeypatch):
    called, clock = answer("squeue", "jobs"), SimpleNamespace(now=100.0)
    monkeypatch.setattr(slurm_module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def queries():
        return called.unlink() or 1 if called.exists() else 0

    assert commands.read_state("7", "lcl-run_1-0a1b") == replace(job_state("RUNNING", "None", "n1"), asked_at=100)
    assert queries() == 1
    assert commands.read_state("9", "a|b") == replace(job_state("CANCELLED", "Resources", ""), asked_at=100)
    assert commands.read_state("7", "lcl-run_3-0a1b") is None, "its id is another job's by now"
    assert commands.read_state("10", "unknown") is None
    assert queries() == 0
    clock.now += 3
    assert commands.read_state("10", "submitted meanwhile, perhaps") is None
    assert queries() == 1
    clock.now += 3
    commands.read_state("8", "lcl-run_2-0a1b")
    assert queries() == 0
    commands.read_state("8", "lcl-run_2-0a1b", fresh=True)
    assert queries() == 1


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
    monkeypatch.setenv("LCL_DATABASE_URL", "postgresql+psycopg://lcl:secret@db/lcl")
    called = answer("sbatch", "submitted")
    settings = WorkerSettings(slurm_partition="gpu", slurm_time="1-12:00:00")
    needed = NodeResources(cpus_per_gpu=4, memory_per_gpu=8).of_node(8)
    env = job_environment(os.environ, {"MORE": "x"})
    command = ["python", "-m", "module", "$(a folder)"]
    assert SlurmCommands(settings).submit("lcl-run_1-0a1b", 2, 8, needed, tmp_path, env, command) == "11"
    arguments, environment = json.loads(called.read_text())
    script = arguments.index(str(tmp_path / "batch.sh"))
    assert {"--parsable", "--nodes=2", "--gpus-per-node=8", "--partition=gpu", "--requeue"} <= {*arguments[:script]}
    assert {"--time=1-12:00:00", "--mem=64G", "--cpus-per-task=32", "--signal=TERM@60", "--export=ALL"} <= {
        *arguments[:script]
    }
    assert not [each for each in arguments if each.startswith(("--account", "--qos", "--comment"))]
    assert arguments[script + 1] == "srun"
    assert arguments[-4:] == command
    assert "$(a folder)" not in (tmp_path / "batch.sh").read_text()
    assert (environment["SLURM_CONF"], environment["MORE"]) == ("/etc/other.conf", "x")
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
    ("name", "transient"), [("partition", False), ("limit", True), ("at most", True), ("time", False)]
)
def test_a_refused_job(commands, answer, tmp_path, name, transient):
    answer("sbatch", name)
    with pytest.raises(EngineRefused) as caught:
        commands.submit("name", 1, 0, NodeResources(), tmp_path, os.environ, ["true"])
    assert is_transient(caught.value) is transient


def test_a_refusal_fails_the_run_with_the_words_of_slurm(answer, tmp_path):
    for program, name in (("sbatch", "time"), ("squeue", "nothing"), ("sinfo", "nodes")):
        answer(program, name)
    request = JobRequest("toy_run", RunDir(tmp_path), "title", name="run_1")
    with pytest.raises(UserError, match="Requested time limit is invalid") as caught:
        SlurmExecutor(WorkerSettings()).start(request, lambda handle: None)
    assert caught.value.code == "engine_refused"


def test_a_query_is_repeated_until_the_controller_answers(settings):
    answers = [EngineUnreachable("away"), EngineUnreachable("away"), None]

    def query():
        problem = answers.pop(0)
        if problem is not None:
            raise problem
        return "answer"

    executor = SlurmExecutor(settings)
    assert executor.answer(query, patience=0.5) == "answer"
    answers[:] = [EngineUnreachable("away")] * 100
    with pytest.raises(EngineUnreachable):
        executor.answer(query, patience=0.1)


@pytest.mark.parametrize(
    "changes",
    [{"slurm_partition": "--wrap=x"}, {"slurm_time": "1; reboot"}, {"node_resources": {"pretrain": {"cpus": 0}}}],
)
def test_settings_are_checked(changes):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        WorkerSettings(**changes)
