"""Two ranks in network namespaces of their own, and the link between them cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from lcl_core.common.processes import NodeInfo
from lcl_core.common.run_dir import ExitCode
from lcl_core.train.launch import rank_env
from tests.lcl_core.train.small_runs import curve, finished, logged_steps, prepared
from workers.executors.local import sanitized_env
from workers.failure_table import infrastructure_cause

SHORT = (
    "import runpy, sys; from lcl_core.train import distributed; distributed.SILENCE_SECONDS = int(sys.argv.pop(1));"
    "runpy.run_module('lcl_core.train', run_name='__main__', alter_sys=True)"
)


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture
def link():
    """Names of two namespaces with a device ``veth0`` in each, 10.9.0.1 and 10.9.0.2."""
    names = [f"lcl-{os.getpid()}-{side}" for side in "ab"]
    if not shutil.which("ip") or ip("netns", "add", names[0]).returncode:
        pytest.skip("network namespaces need iproute2 and the right to make them")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.9.0.{number}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                assert not ip("-n", name, "link", "set", device, "up").returncode
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture
def ranks(link):
    """Start both ranks of a run, which break off silent connections after so many seconds."""
    with ExitStack() as stack:

        def start(run_dir, silence):
            log = stack.enter_context(run_dir.log_file.open("ab"))
            env = sanitized_env({**os.environ, "OMP_NUM_THREADS": "1"})
            del env["LCL_SUPERVISED"]
            processes = []
            for number, name in enumerate(link):
                node = rank_env(NodeInfo.at("10.9.0.1:29511", number, 2, 120.0), 0, 1)
                command = ["ip", "netns", "exec", name, sys.executable, "-c", SHORT, f"{silence}", f"{run_dir.path}"]
                own = env | node | {"GLOO_SOCKET_IFNAME": "veth0"}
                process = subprocess.Popen(command, env=own, stdout=log, stderr=log)
                stack.callback(process.wait)
                stack.callback(process.kill)
                processes.append(process)
            return processes

        yield start


@pytest.mark.extended
def test_a_link_that_is_cut_for_ever_is_told_as_network(ranks, link, tmp_path, sample_zip, eventually):
    run_dir = prepared(tmp_path, sample_zip, steps=100_000, log_every=1, engine={"nodes": 2})
    processes = ranks(run_dir, 8)
    eventually(lambda: logged_steps(run_dir) >= 3, "the first steps")
    ip("-n", link[1], "link", "set", "veth0", "down")
    assert [process.wait(timeout=180) for process in processes] == [ExitCode.CRASH, ExitCode.CRASH]
    rule = infrastructure_cause(run_dir.log_file.read_text().splitlines())
    assert rule is not None
    assert rule.cause == "network"


@pytest.mark.extended
def test_a_link_that_comes_back_costs_nothing(ranks, link, tmp_path, sample_zip, eventually):
    changes = {"steps": 60, "log_every": 1}
    run_dir = prepared(tmp_path / "cut", sample_zip, **changes, engine={"nodes": 2})
    processes = ranks(run_dir, 60)
    eventually(lambda: logged_steps(run_dir) >= 3, "the first steps")
    ip("-n", link[1], "link", "set", "veth0", "down")
    with pytest.raises(subprocess.TimeoutExpired):
        processes[0].wait(timeout=5)
    ip("-n", link[1], "link", "set", "veth0", "up")
    assert [process.wait(timeout=180) for process in processes] == [ExitCode.OK, ExitCode.OK]
    whole = prepared(tmp_path / "whole", sample_zip, **changes, engine={"processes": 2})
    assert finished(whole) == ExitCode.OK
    assert curve(run_dir) == curve(whole)
