"""Which pairs of a batch have the same context, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives import blip2 as module
from lcl_core.objectives.base import INITIAL_LOGIT_BIAS, GlobalBatch, Objective
from lcl_core.objectives.hard_negatives import sample_hard_negatives
from lcl_core.objectives.registry import build_objective
from lcl_core.ops.contrastive_loss import share_group
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


def test_positives_of_the_same_context_attract_images_of_equal_captions_in_the_sigmoid_loss(
    small_model: LCLModel, collated: Collated
) -> None:
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


def test_positives_of_the_same_context_change_no_gradient_of_the_softmax_loss(
    small_model: LCLModel, collated: Collated
) -> None:
    """Texts with equal features share their target already: its halves add up over the two rows."""
    gradients, correct = {}, {}
    for positives in ("own", "same_context"):
        objective, batch = collated("clip", positives=positives)
        pairs = objective.encode(small_model, batch).pairs
        assert pairs is not None
        sums = pairs.loss(small_model.logit_scale, [5])
        correct[positives] = sums.correct
        gradients[positives] = torch.autograd.grad(sums.loss, [pairs.image_features, small_model.visual.conv1.weight])
    torch.testing.assert_close(gradients["own"], gradients["same_context"], rtol=1e-4, atol=1e-5)
    assert correct["own"] <= correct["same_context"]


def test_images_of_one_concept_share_their_contexts(small_model: LCLModel, collated: Collated) -> None:
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


def test_blip2_draws_no_negative_of_the_same_concept(small_model: LCLModel, collated: Collated) -> None:
    objective, batch = collated("blip2")
    encoded = objective.encode(small_model, replace(batch, concepts=torch.tensor([7, 7, 7, 7, 9])))
    own = encoded.candidates
    assert encoded.pairs is not None
    assert encoded.pairs.groups is None, "positives are not those of the spec's default"
    assert own is not None
    negatives = sample_hard_negatives(own, own, small_model.logit_scale.detach())
    assert negatives.texts[:4].tolist() == negatives.images[:4].tolist() == [4] * 4


def test_images_of_documents_have_their_concepts(small_model: LCLModel, collated: Collated) -> None:
    """A pair's concept is that of its image: images without a context are no pairs."""
    objective, batch = collated("lcl", positives="same_concept")
    concepts = torch.arange(len(batch.pixel_values)) + 50
    pairs = objective.encode(small_model, replace(batch, concepts=concepts)).pairs
    assert pairs is not None
    assert pairs.groups is not None
    assert len(batch.pair_images) < len(concepts)
    assert pairs.groups[:, 1].tolist() == (batch.pair_images + 50).tolist()


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


@pytest.mark.parametrize("longest", [0, 9])
def test_blip2_scores_negative_texts_alike_with_their_padding_and_without(
    small_model: LCLModel, collated: Collated, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    """With padding as on a GPU, where no length is known to the host; ``longest``: further padding of all texts."""
    objective, batch = collated("blip2")
    batch = replace(batch, texts=F.pad(batch.texts, (0, longest)))
    packed = gradient_of_images(small_model, objective, batch, "matching")
    concatenate = module._concatenate_rows
    laid_out = []

    def padded(ids: Tensor, lengths: Tensor, **_: bool) -> Any:
        laid_out.append((concatenate(ids, lengths, packed=False), concatenate(ids, lengths, packed=True)))
        return laid_out[-1][0]

    monkeypatch.setattr(module, "_concatenate_rows", padded)
    torch.testing.assert_close(gradient_of_images(small_model, objective, batch, "matching"), packed)
    ((with_padding, without),) = laid_out
    assert packed.abs().sum() > 0
    assert len(without.ids) < len(with_padding.ids)
    assert without.ids[without.starts].tolist() == with_padding.ids[with_padding.starts].tolist()
    assert without.positions[without.starts].tolist() == [0] * len(batch.texts)


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
