"""Which pairs of a batch have the same context, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import torch

from lcl_core.objectives import build_objective
from lcl_core.objectives.base import INITIAL_LOGIT_BIAS, GlobalBatch
from lcl_core.objectives.hard_negatives import sample_hard_negatives
from lcl_core.ops.contrastive_loss import share_group
from lcl_core.specs.pretrain import ObjectiveSpec
from tests.lcl_core.batch_partitions import partition_batches


def equal_groups(batch):
    groups = batch.pair_groups.tolist()
    return [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups)) if groups[i] == groups[j]]


def test_equal_captions_are_one_group(collated):
    for name in ("clip", "coca", "blip2"):
        _, batch = collated(name)
        assert equal_groups(batch) == [(2, 3)], "the same words on either side of the image"


def test_contexts_of_documents_are_compared_with_their_images(small_config, image_tokens):
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


def test_positives_of_the_same_context_attract_images_of_equal_captions_in_the_sigmoid_loss(small_model, collated):
    """The third and fourth text are the same. Alone, the fourth pushes the third image away by sigmoid(logit); as a
    positive it pulls it by 1 - sigmoid(logit): the sum is 1, times the gradient of the logit.
    """
    gradients = {}
    for positives in ("own", "same_context"):
        objective, batch = collated("clip", contrastive_loss="sigmoid", positives=positives)
        pairs = objective.encode(small_model, batch).pairs
        assert pairs is not None
        assert (pairs.groups is None) == (positives == "own")
        sums = pairs.loss(small_model.logit_scale, [5])
        gradients[positives] = torch.autograd.grad(sums.loss, pairs.image_features)[0]
    difference = gradients["own"] - gradients["same_context"]
    expected = torch.zeros_like(difference)
    expected[2:4] = small_model.logit_scale.exp() * pairs.text_features[2]
    torch.testing.assert_close(difference, expected.detach(), rtol=1e-4, atol=1e-5)


def test_images_of_one_concept_share_their_contexts(small_model, collated):
    """Also equal contexts, whatever the concept. Concepts that are not known are no concept."""
    for name in ("clip", "blip2"):
        objective, batch = collated(name, positives="same_concept")
        batch = replace(batch, concepts=torch.tensor([7, 0, 7, 8, 0]))
        encoded = objective.encode(small_model, batch)
        assert encoded.pairs is not None
        assert encoded.pairs.groups is not None
        shared = share_group(encoded.pairs.groups, encoded.pairs.groups)
        assert shared.nonzero().tolist() == [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2], [2, 3], [3, 2], [3, 3], [4, 4]]
        if encoded.candidates is not None:
            assert torch.equal(encoded.candidates.groups, encoded.pairs.groups)


def test_blip2_draws_no_negative_of_the_same_concept(small_model, collated):
    objective, batch = collated("blip2")
    encoded = objective.encode(small_model, replace(batch, concepts=torch.tensor([7, 7, 7, 7, 9])))
    own = encoded.candidates
    assert encoded.pairs is not None
    assert encoded.pairs.groups is None, "positives are not those of the spec's default"
    assert own is not None
    negatives = sample_hard_negatives(own, own, small_model.logit_scale.detach())
    assert negatives.texts[:4].tolist() == negatives.images[:4].tolist() == [4] * 4


def test_the_sigmoid_loss_has_a_bias_of_its_own(small_model, collated):
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


def test_blip2_draws_no_negative_with_an_equal_caption(small_model, collated):
    objective, batch = collated("blip2")
    candidates = objective.encode(small_model, batch).candidates
    assert candidates is not None
    assert torch.equal(candidates.groups, batch.pair_groups)


def gradient_of_images(model, objective, batch, name):
    model.zero_grad()
    encoded = objective.encode(model, batch)
    objective.losses(model, batch, encoded, GlobalBatch()).sums[name].total.backward()
    gradient = model.visual.conv1.weight.grad
    assert gradient is not None
    return gradient.clone()


def test_targets_of_emu_with_and_without_gradient(small_model, collated):
    live, detached = (
        gradient_of_images(small_model, *collated("emu", regression_target=target), "regression")
        for target in ("live", "detached")
    )
    assert not torch.allclose(live, detached)
    assert detached.abs().sum() > 0, "the context's images still learn"


def test_averaged_targets_follow_the_encoder(small_model, collated):
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
