"""The ranks of a run meet at a reserved port, or end with a status that costs no attempt."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lcl_core.common.processes import NodeInfo, reserve_port
from lcl_core.common.run_dir import ExitCode
from lcl_core.train.launch import node_from_env, rank_env

MEET = """
import resource, torch
from lcl_core.common.run_dir import RendezvousFailed, ExitCode
from lcl_core.train.distributed import init_process_group
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with init_process_group(torch.device("cpu")) as ranks:
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256, "hundreds of ranks need as many connections"
        print(ranks.all_gather_ints([torch.distributed.get_rank()]))
except RendezvousFailed as error:
    print(error)
    raise SystemExit(int(ExitCode.RENDEZVOUS_FAILED))
"""


def start(node):
    env = os.environ | rank_env(node, 0, 1) | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", MEET], env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.extended
def test_two_nodes_meet():
    with reserve_port("127.0.0.1") as reserved:
        port = reserved.getsockname()[1]
        ranks = [start(NodeInfo(number, 2, "127.0.0.1", port)) for number in (1, 0)]
        outputs = [rank.communicate(timeout=900)[0] for rank in ranks]
    assert [output.strip() for output in outputs] == ["[[0], [1]]"] * 2
    assert [rank.returncode for rank in ranks] == [0, 0]


@pytest.mark.extended
def test_a_node_that_stays_away_ends_the_wait():
    with reserve_port("127.0.0.1") as reserved:
        node = NodeInfo(0, 2, "127.0.0.1", reserved.getsockname()[1], seconds=1.0)
        rank = start(node)
        output = rank.communicate(timeout=900)[0]
    assert rank.returncode == ExitCode.RENDEZVOUS_FAILED, output


def test_what_a_node_is_told(monkeypatch):
    assert node_from_env() is None
    for host in ("10.0.0.1", "2001:db8::7", "node7"):
        node = NodeInfo(2, 4, host, 4711, 60.0)
        for name, value in node.to_env().items():
            monkeypatch.setenv(name, value)
        assert node_from_env() == node
