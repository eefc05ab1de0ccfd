"""Distillation: the equation, and a step that is the same in parts."""

from __future__ import annotations

import pytest
import torch

from lcl_core.objectives.base import GlobalBatch
from lcl_core.objectives.distillation import Distillation
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.parsing import parse_spec
from lcl_core.specs.pretrain import ObjectiveSpec, PretrainSpec
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.loss_balance import LossBalance
from lcl_core.train.monitor import WeightsCopy
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingModule, TrainingStep
from tests.lcl_core.batch_partitions import partition_batches


def teacher(pixels):
    """[n, 3, S, S] → [n, 6]: means of the upper and of the lower half of each channel."""
    return torch.cat((pixels[:, :, :8].mean((2, 3)), pixels[:, :, 8:].mean((2, 3))), dim=1)


def distilled(config, name="lcl", weight=3.0, **spec):
    method = build_objective(ObjectiveSpec.model_validate({"name": name, **spec}), config)
    return Distillation(method, teacher, config.text_width, 6, weight, seed=0)


def test_the_loss_is_one_minus_the_cosine_of_each_image(small_model, small_config, documents, pixels):
    objective = distilled(small_config)
    batch = objective.collate(documents, pixels, small_config)
    encoded = objective.encode(small_model, batch)
    losses = objective.losses(small_model, batch, encoded, GlobalBatch())
    assert objective.counts(batch)["distillation"] == len(pixels)
    assert losses.sums.keys() == {"generation", "distillation"}
    latents, weight = encoded.activations.image_latents.double(), objective.projection.weight.double()
    predicted, target = latents @ weight.T, teacher(pixels).double()
    cosine = (predicted * target).sum(1) / (predicted.norm(dim=1) * target.norm(dim=1))
    torch.testing.assert_close(losses.sums["distillation"].total.double(), (1 - cosine).sum(), rtol=1e-5, atol=1e-5)
    assert losses.sums["distillation"].weight == 3.0
    assert objective.flops(small_config, batch) == objective.method.flops(small_config, batch)


def test_micro_batches_are_the_one_big_batch(small_config, documents, pixels):
    found = []
    for hands in ([[0, 1, 2, 3]], [[3], [1, 0], [2]]):
        model, objective = build_model(small_config, seed=0), distilled(small_config)
        step = TrainingStep(model, objective, RankGroup())
        batches = partition_batches(objective, documents, pixels, small_config, hands)
        step(build_optimizer(step.trained, lr=1e-3), batches)
        found.append({name: p.grad for name, p in step.trained.named_parameters()})
    assert found[0]["objective.projection.weight"] is not None
    for name, gradient in found[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(found[1][name], gradient, atol=2e-6 * float(gradient.abs().max()) + 3e-7, rtol=0)


def test_a_copy_of_the_weights_has_the_method_without_its_teacher(small_config):
    spec = parse_spec("pretrain", {"objective": {"hold_gradient_ratio": 1.0}})
    assert isinstance(spec, PretrainSpec)
    trained = TrainingModule(build_model(small_config, seed=1), distilled(small_config))
    LossBalance(spec.objective, trained, None, RankGroup()).set_weight(TrainingProgress(contrastive_weight=0.55))
    copy = WeightsCopy(spec, small_config, torch.device("cpu"))
    copy.load(trained)
    assert copy.module.objective.weights == {"contrastive": pytest.approx(0.55), "generation": 1.0}
    ours, theirs = copy.model.state_dict(), trained.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
