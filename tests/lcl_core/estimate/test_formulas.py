"""The formulas against the real model, its methods, and a batch as they lay it out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.common.errors import UserError
from lcl_core.estimate import flops
from lcl_core.estimate.flops import (
    FORWARD_FLOPS,
    FORWARDS_PER_STEP,
    Workload,
    expected_workload,
    model_sizes,
    vision_flops,
)
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


TOWERS: list[dict[str, Any]] = [
    {},
    {"vision": "hybrid"},
    {"vision": "hybrid", "image_size": 48, "patch_size": 12},
    {"vision": "convnext", "vision_layers": 5},
    {"vision": "resnet", "vision_layers": 5},
    {"vision": "timm:resnet18", "vision_width": 256},
    {"vision": "timm:swin_tiny_patch4_window7_224", "image_size": 224, "patch_size": 32, "vision_width": 768},
]


def spec_of_tower(changes: dict[str, Any]) -> PretrainSpec:
    sizes = {"image_size": 64, "patch_size": 16, "text_width": 64, "text_heads": 1, "text_layers": 1, **changes}
    spec = parse_spec("pretrain", {"model": sizes, "tokenizer": {"vocab_size": 300}})
    assert isinstance(spec, PretrainSpec)
    return spec


@pytest.mark.parametrize("changes", TOWERS)
def test_parameters_and_operations_are_those_of_every_vision_tower(changes: dict[str, Any]) -> None:
    spec = spec_of_tower(changes)
    sizes, side = model_sizes(spec), spec.model.image_size
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = LCLModel(LCLConfig(**spec.model.model_dump(), vocab_size=sizes.vocab_size, **SPECIALS)).eval()
        model.visual(torch.empty(3, 3, side, side))
    assert model_parameters(sizes) == model.num_parameters()
    # within 3 %: mixing by attention in windows is counted by its kernel
    assert vision_flops(sizes, 3, sizes.num_image_tokens) == pytest.approx(counter.get_total_flops(), rel=0.03)


SPECIALS = {f"{name}_token_id": number for number, name in enumerate(("sot", "eot", "img", "soi", "eoi"))}


@pytest.mark.parametrize("changes", TOWERS)
def test_the_memory_of_every_vision_tower_is_about_what_it_keeps(changes: dict[str, Any]) -> None:
    spec = spec_of_tower(changes)
    sizes, side, kept = model_sizes(spec), spec.model.image_size, {}
    model = LCLModel(LCLConfig(**spec.model.model_dump(), vocab_size=sizes.vocab_size, **SPECIALS)).train()
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # with the tensor, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.visual(torch.zeros(2, 3, side, side))
    plain: Any = {"image_size": side, "half": False, "average": False, "staged": False, "checkpointing": False}
    images, none = (Workload(count, sizes.num_image_tokens, [0.0], 0) for count in (2, 0))
    counted = [training_memory(sizes, 0, load, **plain).activations for load in (images, none)]
    assert 0.4 < (counted[0] - counted[1]) / sum(size for size, _ in kept.values()) < 2.5


def test_an_estimate_of_a_network_that_timm_does_not_have_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.is_model", lambda name: False)
    flops._timm_counts.cache_clear()
    with pytest.raises(UserError, match="has no model 'resnet18'") as caught:
        model_parameters(model_sizes(spec_of_tower({"vision": "timm:resnet18", "vision_width": 256})))
    assert caught.value.field == "model.vision"


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
