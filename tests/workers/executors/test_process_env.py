"""What a run's process may see of the worker's environment."""

from __future__ import annotations

import pytest

from workers.executors.local import sanitized_env


@pytest.mark.parametrize(
    "name",
    [
        "LCL_DATABASE_URL",
        "LCL_BROKER_URL",
        "LCL_API_KEY",
        "POSTGRES_PASSWORD",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "hf_token",
        "RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "SLURM_JOB_ID",
        "SLURMD_NODENAME",
        "TORCHELASTIC_RUN_ID",
        "OMPI_COMM_WORLD_RANK",
    ],
)
def test_secrets_and_other_jobs_stay_behind(name):
    assert name not in sanitized_env({name: "x"})


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LCL_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONPATH"],
)
def test_what_a_process_needs_goes_along(name):
    assert sanitized_env({name: "x"})[name] == "x"


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("AWS_SECRET_ACCESS_KEY", "s3"),
        ("AWS_SESSION_TOKEN", "s3"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "gs"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "abfs"),
        ("FSSPEC_S3_SECRET", "s3"),
    ],
)
def test_credentials_of_storage_go_along_where_it_is_used(name, protocol):
    assert sanitized_env({name: "x"}, {protocol, "https"})[name] == "x"
    assert name not in sanitized_env({name: "x"}, {"https", "ftp"})
    assert "LCL_ADMIN_KEY" not in sanitized_env({"LCL_ADMIN_KEY": "x"}, {protocol})


def test_the_process_knows_that_it_is_watched():
    assert sanitized_env({})["LCL_SUPERVISED"] == "1"


def test_threads_are_set_unless_the_worker_has_set_them():
    """OpenMP's own choice ignores the quota of a container, and polls on cores that others need."""
    environment = sanitized_env({})
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert int(environment["GOMP_SPINCOUNT"]) < 300_000  # OpenMP's own
    assert "GOMP_SPINCOUNT" not in sanitized_env({"OMP_WAIT_POLICY": "ACTIVE"})
