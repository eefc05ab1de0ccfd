"""Jobs of one machine: what they see of the worker's environment, how they start, and their stacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from workers.executors import local
from workers.executors.base import JobRequest, create_executor
from workers.executors.local import JobProcess, LocalExecutor, sanitized_env
from workers.settings import WorkerSettings


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
def test_jobs_whose_libraries_are_slow_to_import_are_forked(tmp_path, monkeypatch, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "FORKED", {"slow_job": "json"})
    run_dir, executor, forked = RunDir(tmp_path), LocalExecutor(settings), {}
    with executor.serving(["slow_job", "quick_job"]):
        for name in ("slow_job", "quick_job"):
            (tmp_path / f"{name}.py").write_text("import sys; print(sys.orig_argv[1:]); sys.exit(5)")
            with executor.start(JobRequest(name, run_dir, "title", env={"LCL_NODE": "1"}), print) as job:
                assert job.wait(60) == 5
                written = run_dir.log_file.read_bytes()[job.log_start :].decode()
            assert written == f"['-m', '{name}', '{tmp_path}']\n"
            forked[name] = not isinstance(job._process, subprocess.Popen)
    assert forked == {"slow_job": True, "quick_job": False}


JOB_OF_TWO = """
import subprocess, sys, time
from lcl_core.common.run_dir import RunDir

RunDir(sys.argv[1]).watch_signals()
if sys.argv[2:] != ["rank"]:
    subprocess.Popen([sys.executable, "-m", "job_of_two", sys.argv[1], "rank"], stdin=subprocess.PIPE)
print("ready", flush=True)
def waits_for_the_others():
    time.sleep(600)
waits_for_the_others()
"""


def test_all_processes_of_a_job_write_their_stacks(tmp_path, monkeypatch, eventually):
    run_dir = RunDir(tmp_path)
    run_dir.prepare({})
    (tmp_path / "job_of_two.py").write_text(JOB_OF_TWO)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    with JobProcess("job_of_two", run_dir, "title") as job:
        eventually(lambda: run_dir.log_file.read_text().count("ready") == 2, "both processes")
        (run_dir.stacks / f"{os.getpid()}.txt").write_text("of another job")
        assert "2 of its processes" in job.dump_stacks()
        text = (run_dir.artifacts / "stacks.txt").read_text()
        assert text.count("in waits_for_the_others") == 2
        assert "of another job" not in text
        assert job.wait(0) is None, "the signal ends nobody"


SECRETS = "LCL_DATABASE_URL LCL_BROKER_URL LCL_API_KEY POSTGRES_PASSWORD PGPASSWORD AWS_SECRET_ACCESS_KEY hf_token"
SECRETS += (
    " AZURE_STORAGE_CONNECTION_STRING FSSPEC_S3 MYSQL_PWD SMTP_PASS RESTIC_REPOSITORY GITHUB_PAT SENTRY_DSN NETRC"
)
SECRETS += " VAULT_ADDR DOCKER_AUTH_CONFIG KUBECONFIG GOOGLE_APPLICATION_CREDENTIALS WANDB_API_KEY SSH_AUTH_SOCK CI_JWT"
OF_OTHER_JOBS = "RANK WORLD_SIZE MASTER_ADDR SLURM_JOB_ID SLURMD_NODENAME TORCHELASTIC_RUN_ID OMPI_COMM_WORLD_RANK"
NEEDED = "PATH HOME LCL_HOME CUDA_VISIBLE_DEVICES OMP_NUM_THREADS TOKENIZERS_PARALLELISM PYTHONPATH"


def test_secrets_and_other_jobs_stay_behind():
    names = f"{SECRETS} {OF_OTHER_JOBS} {NEEDED}".split()
    environment = sanitized_env(dict.fromkeys(names, "1"))
    assert set(names) & environment.keys() == set(NEEDED.split())
    assert environment["LCL_SUPERVISED"] == "1"
    proxies = sanitized_env({"HTTPS_PROXY": "http://ada:sesame@proxy:3128", "http_proxy": "http://proxy:3128"})
    assert {"HTTPS_PROXY", "http_proxy"} & proxies.keys() == {"http_proxy"}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("AWS_SECRET_ACCESS_KEY", "s3"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "gs"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "abfs"),
        ("FSSPEC_S3_SECRET", "s3"),
    ],
)
def test_credentials_of_storage_go_along_where_it_is_used(name, protocol):
    assert sanitized_env({name: "x"}, {protocol, "https"})[name] == "x"
    assert name not in sanitized_env({name: "x"}, {"https", "ftp"})


def test_threads_are_set_unless_the_worker_has_set_them():
    """OpenMP's own choice ignores the quota of a container, and polls on cores that others need."""
    environment = sanitized_env({})
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert int(environment["GOMP_SPINCOUNT"]) < 300_000  # OpenMP's own
    assert "GOMP_SPINCOUNT" not in sanitized_env({"OMP_WAIT_POLICY": "ACTIVE"})


def test_an_executor_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "workers.executors.ray", raising=False)
    with pytest.raises(UserError, match=r"pip install 'lcl\[ray\]'"):
        create_executor(WorkerSettings(executor="ray"))
