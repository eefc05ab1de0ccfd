"""Every objective fits its facts in the specs, and its useful operations are those that it computes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.data.sampling.sources import VIEWS
from lcl_core.objectives import OBJECTIVES, build_objective
from lcl_core.specs.data import VIEW_ITEMS
from lcl_core.specs.pretrain import METHODS, MethodName, ObjectiveSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.batch_partitions import partition_batches
from tests.lcl_core.reference_loss import compute_loss


def test_the_vocabulary_knows_the_methods_and_views_that_there_are():
    assert tuple(OBJECTIVES) == tuple(METHODS) == get_args(MethodName)
    assert VIEW_ITEMS.keys() == VIEWS.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_those_that_the_vocabulary_weighs(small_model, collated, name):
    objective, batch = collated(name)
    losses = compute_loss(objective, small_model, batch).losses
    assert losses.keys() == METHODS[name].weights.keys() == objective.counts(batch).keys()
    assert objective.weights == METHODS[name].weights
    objective.weights = dict.fromkeys(losses, 0.0)
    assert float(compute_loss(objective, small_model, batch).loss) == 0, "a weight that does not weigh"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_own_parameters_come_from_the_seed_and_leave_the_model_alone(small_config, name):
    first, same, other = (build_objective(ObjectiveSpec(name=name), small_config, seed) for seed in (3, 3, 4))
    own = dict(first.named_parameters())
    assert all(torch.equal(own[key], value) for key, value in same.named_parameters())
    matrices = {key for key, value in own.items() if value.ndim == 2}
    assert not any(torch.equal(own[key], dict(other.named_parameters())[key]) for key in matrices)
    before = torch.get_rng_state()
    build_objective(ObjectiveSpec(name=name), small_config, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_counted_operations_are_those_of_the_method(collated, small_model, name):
    objective, batch = collated(name)
    small_model.eval()  # in training a CPU's products have rows of padding, too
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_loss(objective, small_model, batch)
    assert objective.flops(small_model.config, batch) / 3 == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_generation_alone_is_lcl_without_contrast(small_config, documents, pixels):
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
