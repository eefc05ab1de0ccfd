"""Cores of a container's CPU quota, and the OpenMP variables of processes that compute."""

import os

import pytest

from lcl_core.common import processes
from lcl_core.common.processes import SPIN_COUNT, cpu_quota, thread_env, threads_per_process, usable_cores


def written(root, membership, files):
    """A root with ``proc/self/cgroup`` and these files under ``sys/fs/cgroup``."""
    for name, text in {"proc/self/cgroup": membership, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5, id="v2, a container's own namespace"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="v2, no limit"),
        pytest.param("0::/\n", {}, None, id="v2, the root group, which has no cpu.max"),
        pytest.param(
            "0::/pod/box\n",
            {"cpu.max": "max 100000", "pod/cpu.max": "200000 100000", "pod/box/cpu.max": "400000 100000"},
            2.0,
            id="v2, a group above allows less",
        ),
    ],
)
def test_quota_of_control_groups(tmp_path, membership, files, expected):
    assert cpu_quota(written(tmp_path, membership, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.3, 1), (1.5, 2), (4.0, 4), (64.0, 8)])
def test_cores_are_those_of_the_affinity_within_the_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(processes, "cpu_quota", lambda: quota)
    assert usable_cores() == expected


def test_an_empty_environment_gets_the_cores_and_short_waits(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 3)
    added = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": str(SPIN_COUNT)}
    assert thread_env({}) == added
    assert thread_env({"OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""}) == added


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_users_choice_is_kept(name):
    assert thread_env({name: "x", "OMP_NUM_THREADS": "5"}) == {}


@pytest.mark.parametrize(
    ("given", "processes", "expected"), [({}, 2, 4), ({"OMP_NUM_THREADS": "6"}, 4, 1), ({}, 99, 1)]
)
def test_ranks_of_a_run_share_its_threads(monkeypatch, given, processes, expected):
    monkeypatch.setattr("lcl_core.common.processes.usable_cores", lambda: 8)
    assert threads_per_process(given, processes) == expected
