"""Each rank uses its own GPU and no other; CUDA is played by a record of what was called."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lcl_core.common.device import peak_memory_gib
from lcl_core.common.rendezvous import NodeInfo
from lcl_core.common.run_dir import RunDir
from lcl_core.data.sampling.loader import LoaderPool
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train import trainer
from lcl_core.train.checkpoint.state import restore_rng, rng_tensors
from lcl_core.train.checkpoint.writer import Staging, TensorFile
from lcl_core.train.distributed import init_process_group
from lcl_core.train.launch import rank_env
from tests.lcl_core.train.small_runs import prepared

GPU = torch.device("cuda", 1)


class Moved(Exception):
    """The model was moved: the test has seen enough."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was called, in order, by the second rank on a machine with two GPUs."""
    found: list[tuple[Any, ...]] = []

    def record(name: str, result: Any = None) -> Any:
        return lambda *given, **named: found.append((name, *given, *named.values())) or result

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", record("set_device"))
    monkeypatch.setattr(torch.cuda, "synchronize", record("synchronize"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", record("get_rng_state", torch.zeros(1, dtype=torch.uint8)))
    monkeypatch.setattr(torch.cuda, "set_rng_state", record("set_rng_state"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", record("max_memory_allocated", 2**30))
    return found


def test_the_device_is_set_before_anything_is_moved_and_after_the_loaders_have_started(
    calls: list[tuple[Any, ...]], tmp_path: Path, sample_zip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(self: nn.Module, device: torch.device) -> nn.Module:
        calls.append(("to", device))
        raise Moved

    class Recorded(LoaderPool):
        def __init__(self, *given: Any) -> None:
            calls.append(("loaders", given[1]))
            super().__init__(*given)

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(trainer, "LoaderPool", Recorded)
    run_dir: RunDir = prepared(tmp_path, sample_zip, data={"workers": 3})
    run = run_dir.read_run()
    with pytest.raises(Moved):
        trainer.train(PretrainSpec.model_validate(run["spec"]), run_dir, run["datasets"])
    names = [call[0] for call in calls]
    assert calls[names.index("set_device")] == ("set_device", GPU)
    assert names.index("loaders") < names.index("set_device") < names.index("to")
    assert calls[names.index("loaders")] == ("loaders", 3)
    assert calls[names.index("to")] == ("to", GPU)


def test_a_process_group_knows_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **named: given.update(named, backend=backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with init_process_group(GPU, 60):
        timeout = timedelta(seconds=60)
        assert given == {"backend": "cpu:gloo,cuda:nccl", "device_id": GPU, "timeout": timeout}


def test_ranks_that_meet_at_a_reserved_port_know_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the launcher. Without its device NCCL takes the GPU whose number is the rank."""
    given: dict[str, Any] = {}
    for name, value in rank_env(NodeInfo(1, 2, "127.0.0.1", 1), local_rank=0, processes=1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "TCPStore", lambda *_, **__: SimpleNamespace(set_timeout=lambda _: None))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **named: given.update(named, backend=backend))
    monkeypatch.setattr(dist, "all_reduce", lambda _: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with init_process_group(GPU, 60):
        assert (given["backend"], given["device_id"], given["rank"]) == ("cpu:gloo,cuda:nccl", GPU, 1)


def test_staging_waits_for_the_device_of_every_tensor(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = torch.device("cuda", 0)
    tensors = {"a": SimpleNamespace(is_cuda=True, device=GPU), "b": SimpleNamespace(is_cuda=True, device=other)}
    tensors["c"] = SimpleNamespace(is_cuda=False, device=torch.device("cpu"))
    monkeypatch.setattr(Staging, "_copy", lambda self, file, name, live: torch.zeros(1))
    Staging().copy({"model": TensorFile(tensors)})  # type: ignore[arg-type]
    assert set(calls) == {("synchronize", GPU), ("synchronize", other)}


def test_random_states_and_memory_are_those_of_the_device(calls: list[tuple[Any, ...]]) -> None:
    state = rng_tensors(GPU)
    restore_rng({"cuda": state["cuda"]}, GPU)
    assert peak_memory_gib(GPU) == 1.0
    assert [(call[0], call[-1]) for call in calls] == [
        ("get_rng_state", GPU),
        ("set_rng_state", GPU),
        ("max_memory_allocated", GPU),
    ]


def test_a_rank_on_the_cpu_keeps_no_state_of_a_gpu(calls: list[tuple[Any, ...]]) -> None:
    assert set(rng_tensors(torch.device("cpu"))) == {"cpu"}
    restore_rng({"cuda": torch.zeros(1)}, torch.device("cpu"))
    assert not calls
