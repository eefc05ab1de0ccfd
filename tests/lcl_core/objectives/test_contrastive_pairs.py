"""Which pairs of a batch have the same context, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives.base import INITIAL_LOGIT_BIAS, GlobalBatch, Objective
from lcl_core.objectives.registry import build_objective
from lcl_core.specs.pretrain import ObjectiveSpec
from tests.lcl_core.batch_partitions import partition_batches

Collated = Callable[..., tuple[Objective, PackedBatch]]


def equal_groups(batch: PackedBatch) -> list[tuple[int, int]]:
    groups = batch.pair_groups.tolist()
    return [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups)) if groups[i] == groups[j]]


def test_equal_captions_are_one_group(collated: Collated) -> None:
    for name in ("clip", "coca", "blip2"):
        _, batch = collated(name)
        assert equal_groups(batch) == [(2, 3)], "the same words on either side of the image"


def test_contexts_of_documents_are_compared_with_their_images(small_config: LCLConfig, image_tokens: list[int]) -> None:
    sot, eot = small_config.sot_token_id, small_config.eot_token_id
    one = torch.tensor([sot, 5, *image_tokens, 6, *image_tokens, eot])
    draw = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(1, 3, 16, 16, generator=draw) for _ in range(3))
    pixels = torch.cat([first, second, first, third, third, second])
    objective = build_objective(ObjectiveSpec(name="lcl"), small_config)
    (batch,) = partition_batches(objective, [one, one, one], pixels, small_config, [[0, 1, 2]])
    # pairs: the first and second image of each document. "5" alone is the context of all first ones; before the second
    # ones stands another image in the third document.
    assert equal_groups(batch) == [(0, 2), (0, 4), (1, 3), (2, 4)]


def test_positives_of_the_same_context_lower_the_loss_of_equal_captions(
    small_model: LCLModel, collated: Collated
) -> None:
    features = {}
    for positives in ("own", "same_context"):
        objective, batch = collated("clip", positives=positives)
        pairs = objective.encode(small_model, batch).pairs
        assert pairs is not None
        assert (pairs.groups is None) == (positives == "own")
        sums = pairs.loss(small_model.logit_scale, [5])
        features[positives] = torch.autograd.grad(sums.loss, pairs.image_features)[0]
    # the third and fourth text are the same: with one positive, each pushes the other's image away
    assert not torch.allclose(features["own"][2], features["same_context"][2])


def test_the_sigmoid_loss_has_a_bias_of_its_own(small_model: LCLModel, collated: Collated) -> None:
    objective, batch = collated("lcl", contrastive_loss="sigmoid")
    assert {name: float(value.detach()) for name, value in objective.named_parameters()} == {
        "logit_bias": INITIAL_LOGIT_BIAS
    }
    pairs = objective.encode(small_model, batch).pairs
    assert pairs is not None
    pairs.loss(small_model.logit_scale, [len(pairs.image_features)]).loss.backward()
    bias = dict(objective.named_parameters())["logit_bias"]
    assert bias.grad is not None
    assert bias.grad != 0


def test_blip2_draws_no_negative_with_an_equal_caption(small_model: LCLModel, collated: Collated) -> None:
    objective, batch = collated("blip2")
    candidates = objective.encode(small_model, batch).candidates
    assert candidates is not None
    assert torch.equal(candidates.groups, batch.pair_groups)


def gradient_of_images(model: LCLModel, objective: Objective, batch: PackedBatch, name: str) -> Tensor:
    model.zero_grad()
    encoded = objective.encode(model, batch)
    objective.losses(model, batch, encoded, GlobalBatch()).sums[name].total.backward()
    gradient = model.visual.conv1.weight.grad
    assert gradient is not None
    return gradient.clone()


def test_targets_of_emu_with_and_without_gradient(small_model: LCLModel, collated: Collated) -> None:
    live, detached = (
        gradient_of_images(small_model, *collated("emu", regression_target=target), "regression")
        for target in ("live", "detached")
    )
    assert not torch.allclose(live, detached)
    assert detached.abs().sum() > 0, "the context's images still learn"


def test_averaged_targets_follow_the_encoder(small_model: LCLModel, collated: Collated) -> None:
    objective, batch = collated("emu", regression_target="ema")
    objective.before_training(small_model)
    _, tokens = small_model.encode_images(batch.pixel_values)
    target = objective.get_submodule("target_encoder")
    assert torch.equal(target(batch), tokens.detach()), "they begin as the encoder's"
    with torch.no_grad():
        small_model.pool_project.pooler.cross_attn.proj.weight.add_(1.0)
    before = target.pool_project.pooler.cross_attn.proj.weight.clone()
    objective.after_step(small_model)
    moved = target.pool_project.pooler.cross_attn.proj.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.004), atol=1e-6, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in target.parameters())
