"""The formulas against the real model, its methods, and a batch as they lay it out."""

from __future__ import annotations

import pytest
import torch

from lcl_core.estimate.flops import FORWARD_FLOPS, FORWARDS_PER_STEP, Workload, expected_workload, model_sizes
from lcl_core.estimate.memory import (
    frozen_parameters,
    kept_checkpoints,
    method_parameters,
    model_parameters,
    training_memory,
)
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.objectives.registry import OBJECTIVES, build_objective
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import ModelPart, ObjectiveSpec, PretrainSpec
from lcl_core.train.optimizer import freeze_parts


def test_the_parameters_are_those_of_the_model(small_model: LCLModel, small_config: LCLConfig) -> None:
    assert model_parameters(small_config) == small_model.num_parameters()


@pytest.mark.parametrize("part", ["vision", "pooler", "text", "head"])
def test_frozen_parameters_are_those_that_are_not_trained(
    small_model: LCLModel, small_config: LCLConfig, part: ModelPart
) -> None:
    freeze_parts(small_model, [part])
    frozen = sum(parameter.numel() for parameter in small_model.parameters() if not parameter.requires_grad)
    assert frozen_parameters(small_config, [part]) == frozen > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_methods_own_parameters_are_counted(small_config: LCLConfig, name: str) -> None:
    objective = build_objective(ObjectiveSpec.model_validate({"name": name}), small_config)
    assert method_parameters(name, small_config) == sum(each.numel() for each in objective.parameters())


def test_every_method_has_its_formula() -> None:
    assert FORWARD_FLOPS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_expected_document_costs_what_a_batch_of_such_documents_does(small_config: LCLConfig, name: str) -> None:
    spec, count, words = ObjectiveSpec.model_validate({"name": name}), 6, 20
    objective = build_objective(spec, small_config)
    image = [small_config.soi_token_id, *[small_config.img_token_id] * 4, small_config.eoi_token_id]
    row = torch.tensor([small_config.sot_token_id, *[5] * words, *image, small_config.eot_token_id])
    batch = objective.collate([row] * count, torch.zeros(count, 3, 16, 16), small_config)
    load = expected_workload(spec, images=1, patches=4, tokens=len(row))
    wanted = objective.flops(small_config, batch)
    assert FORWARDS_PER_STEP * FORWARD_FLOPS[name](small_config, load) * count == pytest.approx(wanted, rel=0.03)


def test_a_spec_has_the_sizes_of_its_model() -> None:
    spec = parse_spec("pretrain", {"tokenizer": {"kind": "clip"}, "model": {"vision_width": 64, "vision_layers": 1}})
    assert isinstance(spec, PretrainSpec)
    with torch.device("meta"):
        model = LCLModel(LCLConfig(**spec.model.model_dump()))
    assert model_parameters(model_sizes(spec)) == model.num_parameters()


def test_memory_follows_what_is_switched_on() -> None:
    spec = parse_spec("pretrain", {"preset": "sample"})
    assert isinstance(spec, PretrainSpec)
    sizes, load = model_sizes(spec), Workload(128, 16, [3000.0], 1000)
    plain = {"image_size": 64, "half": False, "average": False, "staged": False, "checkpointing": False}
    held = {
        name: training_memory(sizes, 1000, load, **(plain | changes))
        for name, changes in {
            "plain": {},
            "average": {"average": True},
            "staged": {"staged": True},
            "again": {"checkpointing": True},
            "half": {"half": True},
            "shared": {"shards": 4},
            "frozen": {"frozen": 400, "average": True},
        }.items()
    }
    assert (held["plain"].weights, held["plain"].moments, held["plain"].average) == (4000, 8000, 0)
    assert held["average"].total - held["plain"].total == 4000
    assert held["staged"].total - held["plain"].total == 12_000
    assert held["again"].activations < 0.6 * held["plain"].activations
    assert held["shared"].moments == 2000
    assert (held["frozen"].weights, held["frozen"].gradients, held["frozen"].average) == (4000, 2400, 2400)
    more = training_memory(sizes, 1000, Workload(256, 16, [6000.0], 2000), **plain)
    assert 1.5 < more.activations / held["plain"].activations < 2


@pytest.mark.parametrize("steps", [1, 99, 100, 250, 300])
@pytest.mark.parametrize("milestone", [None, 1, 40, 50, 100])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_kept_checkpoints_are_those_that_the_trainer_keeps(steps: int, milestone: int | None, keep: int) -> None:
    written = [step for step in range(1, steps + 1) if step % 50 == 0 or step == steps]
    kept = {*written[-keep:], *(step for step in written if milestone and step % milestone == 0)}
    assert kept_checkpoints(steps, 50, keep, milestone) == len(kept)
