"""A rank that does not come: the others fail after the spec's time, and say which collectives they had begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcl_core.common.rendezvous import reserve_port
from lcl_core.specs.pretrain import COLLECTIVE_TIMEOUT, EngineSpec
from lcl_core.train import distributed
from tests.conftest import ROOT
from tests.lcl_core.train.rank_processes import run_ranks

MESH = "tests.lcl_core.train.mesh_timeouts"
SCRIPT = Path(__file__).with_name("absent_rank.py")
TIMEOUT = 15  # seconds; the ranks' own start counts too


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    environment = {**os.environ, **meeting, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path), str(rank), str(TIMEOUT)],
            env={**environment, "RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _free_port() -> int:
    with reserve_port("127.0.0.1") as reserved:
        return int(reserved.getsockname()[1])


def test_the_wait_for_a_lost_rank_ends_and_leaves_a_record(pair: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    _, errors = pair[0].communicate(timeout=240)
    assert pair[0].returncode == 1
    assert f"Timed out waiting {TIMEOUT}000ms" in errors, errors
    assert pair[1].poll() is None
    [trace] = sorted((tmp_path / "flight_recorder").iterdir())
    assert trace.name == "rank_0.json"
    last = json.loads(trace.read_text())["entries"][-1]
    assert "allgather" in last["profiling_name"].replace("_", "")
    assert last["timeout_ms"] == 1000 * TIMEOUT
    assert str(trace) in errors


def test_groups_that_share_weights_wait_as_long_as_the_spec_says(tmp_path: Path) -> None:
    port = str(_free_port())
    run_ranks([[MESH, str(tmp_path), port, str(rank), "4", "2", "77"] for rank in range(4)])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert found == [
        {
            "replicate": [[rank % 2, rank % 2 + 2], 77, 2 * (rank % 2) + 2],
            "shard": [[rank // 2 * 2, rank // 2 * 2 + 1], 77, 4 * (rank // 2) + 1],
        }
        for rank in range(4)
    ]


def test_the_recorder_writes_beside_the_other_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"TORCH_FR_BUFFER_SIZE": "7"}
    monkeypatch.setattr(os, "environ", environment)
    distributed._enable_flight_recorder(tmp_path / "flight_recorder")
    assert (tmp_path / "flight_recorder").is_dir()
    assert environment == {
        "TORCH_FR_BUFFER_SIZE": "7",
        "TORCH_FR_DUMP_TEMP_FILE": str(tmp_path / "flight_recorder" / "nccl_rank_"),
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    }


def test_specs_of_before_keep_their_hash() -> None:
    assert "collective_timeout" not in EngineSpec().model_dump()
    assert EngineSpec(collective_timeout=60).model_dump()["collective_timeout"] == 60
    assert EngineSpec().collective_timeout == COLLECTIVE_TIMEOUT
