"""Every objective fits its facts in the specs, and its useful operations are those that it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.data.sampling.sources import VIEWS
from lcl_core.estimate.flops import head_flops, text_flops
from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives.base import Objective
from lcl_core.objectives.registry import OBJECTIVES, build_objective
from lcl_core.specs.data import VIEW_ITEMS
from lcl_core.specs.pretrain import METHODS, MethodName, ObjectiveSpec
from lcl_core.train import build_optimizer
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.batch_partitions import partition_batches
from tests.lcl_core.reference_loss import compute_loss


def test_the_vocabulary_knows_the_methods_and_views_that_there_are() -> None:
    assert tuple(OBJECTIVES) == tuple(METHODS) == get_args(MethodName)
    assert VIEW_ITEMS.keys() == VIEWS.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_those_that_the_vocabulary_weighs(
    small_model: LCLModel, collated: Callable[..., tuple[Objective, PackedBatch]], name: str
) -> None:
    objective, batch = collated(name)
    losses = compute_loss(objective, small_model, batch).losses
    assert losses.keys() == METHODS[name].weights.keys() == objective.counts(batch).keys()
    assert {f"{loss}_weight" for loss in losses} <= ObjectiveSpec.model_fields.keys()
    assert objective.weights == METHODS[name].weights
    nothing, _ = collated(name, **{f"{loss}_weight": 0.0 for loss in losses})
    assert float(compute_loss(nothing, small_model, batch).loss) == 0, "a weight that does not weigh"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_own_parameters_come_from_the_seed_and_leave_the_model_alone(small_config: LCLConfig, name: str) -> None:
    first, same, other = (build_objective(ObjectiveSpec(name=name), small_config, seed) for seed in (3, 3, 4))
    own = dict(first.named_parameters())
    assert all(torch.equal(own[key], value) for key, value in same.named_parameters())
    matrices = {key for key, value in own.items() if value.ndim == 2}
    assert not any(torch.equal(own[key], dict(other.named_parameters())[key]) for key in matrices)
    before = torch.get_rng_state()
    build_objective(ObjectiveSpec(name=name), small_config, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_moving_average_is_counted_forward_alone(
    collated: Callable[..., tuple[Objective, PackedBatch]], small_model: LCLModel
) -> None:
    counted, computed = [], []
    small_model.eval()
    for target in ("detached", "ema"):
        objective, batch = collated("emu", regression_target=target)
        counted.append(objective.flops(small_model.config, batch))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            compute_loss(objective, small_model, batch)
        computed.append(counter.get_total_flops())
    assert counted[1] - counted[0] == pytest.approx(computed[1] - computed[0], rel=0.1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_counted_operations_are_those_of_the_method(
    collated: Callable[..., tuple[Objective, PackedBatch]], small_model: LCLModel, name: str
) -> None:
    objective, batch = collated(name)
    small_model.eval()  # in training a CPU's products have rows of padding, too
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_loss(objective, small_model, batch)
    assert objective.flops(small_model.config, batch) / 3 == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_of_the_pooler_only_what_a_method_takes_is_counted(
    collated: Callable[..., tuple[Objective, PackedBatch]], small_config: LCLConfig
) -> None:
    counted = {}
    for name in ("lcl", "flamingo", "clip", "coca"):
        objective, batch = collated(name)
        counted[name] = objective.flops(small_config, batch) / 3
    patches, width, tower = 5 * 4, small_config.text_width, small_config.vision_width
    assert counted["lcl"] - counted["flamingo"] == pytest.approx(patches * 2 * tower * width), "keys"
    captions = text_flops(small_config, batch.lengths[:5]) + head_flops(small_config, len(batch.labels))
    assert counted["coca"] - counted["clip"] == pytest.approx(captions + patches * 2 * width * width), "tokens"


@pytest.mark.parametrize("name", ["lcl", "beit3", "emu"])
def test_a_long_documents_attention_is_counted(small_config: LCLConfig, pixels: Tensor, name: str) -> None:
    """Half of it where it is causal; attention is most of what a long document costs a narrow model."""
    small_config.context_length = 1000
    model, objective = build_model(small_config, seed=0), build_objective(ObjectiveSpec(name=name), small_config)
    image = [small_config.soi_token_id, *[small_config.img_token_id] * 4, small_config.eoi_token_id]
    batch = objective.collate([torch.tensor([*[5] * 900, *image])], pixels[:1], small_config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_loss(objective, model.eval(), batch)
    # the last block of queries meets all keys, whatever they may see
    assert objective.flops(small_config, batch) / 3 == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_generation_alone_is_lcl_without_contrast(
    small_config: LCLConfig, documents: Sequence[Tensor], pixels: Tensor
) -> None:
    """Three clipped steps with decay, in two micro-batches: the same weights to the last bit."""
    ends = []
    for spec in (ObjectiveSpec(name="flamingo"), ObjectiveSpec(name="lcl", contrastive_weight=0)):
        objective = build_objective(spec, small_config)
        step = TrainingStep(build_model(small_config, seed=0), objective, RankGroup(), max_grad_norm=0.5)
        optimizer = build_optimizer(step.trained, lr=1e-2, weight_decay=0.5)
        batches = partition_batches(objective, documents, pixels, small_config, [[0, 1], [2, 3]])
        generation = [step(optimizer, batches).losses["generation"] for _ in range(3)]
        ends.append((generation, step.model.state_dict()))
    (losses, weights), (expected_losses, expected) = ends
    assert torch.equal(torch.stack(losses), torch.stack(expected_losses))
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    fresh = build_model(small_config, seed=0).state_dict()
    assert not any(torch.equal(fresh[key], value) for key, value in expected.items() if value.ndim > 1)
