"""One step: the same whether the batch comes whole or in parts, and none at all when a number is not one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives import compute_loss, get_objective
from lcl_core.train import build_optimizer
from lcl_core.train.build import build_model
from lcl_core.train.ranks import Ranks
from lcl_core.train.step import StepReport, TrainingStep

# images of each document of the ``documents`` fixture
IMAGES = (1, 2, 1, 1)


def step(model: LCLModel, batches: Sequence[PackedBatch], **options: float) -> StepReport:
    taken = TrainingStep(model, get_objective("lcl"), Ranks(), **options)
    return taken(build_optimizer(model, lr=1e-3), batches)


def parts(
    config: LCLConfig, documents: Sequence[Tensor], pixels: Tensor, cuts: Sequence[int]
) -> list[PackedBatch]:
    """The documents in micro-batches that begin at 0 and at ``cuts``."""
    batches, ends = [], [*cuts, len(documents)]
    for start, end in zip([0, *cuts], ends, strict=True):
        first = sum(IMAGES[:start])
        images = pixels[first : first + sum(IMAGES[start:end])]
        batches.append(PackedBatch.pack(documents[start:end], images, config))
    return batches


def gradients(model: LCLModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2, 3)])
def test_micro_batches_are_the_one_big_batch(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor, cuts: Sequence[int]
) -> None:
    whole, apart = build_model(small_config, seed=0), build_model(small_config, seed=0)
    one = step(whole, parts(small_config, documents, pixels, ()))
    several = step(apart, parts(small_config, documents, pixels, cuts))
    found = gradients(apart)
    assert found.keys() == gradients(whole).keys()
    for name, gradient in gradients(whole).items():
        # some gradients are zero but for round-off, such as the pooler's key bias: softmax does not see shifts
        room = 2e-6 * float(gradient.abs().max()) + 1e-8
        torch.testing.assert_close(found[name], gradient, atol=room, rtol=0, msg=name)
    assert float(several.correct) == float(one.correct)
    for name, loss in one.losses.items():
        assert float(several.losses[name]) == pytest.approx(float(loss), rel=1e-6)


def test_the_step_follows_the_plain_loss(small_model: LCLModel, documents: list[Tensor], pixels: Tensor) -> None:
    batch = PackedBatch.pack(documents, pixels, small_model.config)
    out = compute_loss(get_objective("lcl"), small_model, batch)
    expected = torch.autograd.grad(out.loss, list(small_model.parameters()), allow_unused=True)
    report = step(small_model, [batch])
    assert float(report.losses["contrastive"]) == pytest.approx(float(out.contrastive_loss.detach()), rel=1e-6)
    for parameter, gradient in zip(small_model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_long_gradients_are_clipped(small_model: LCLModel, documents: list[Tensor], pixels: Tensor) -> None:
    report = step(small_model, parts(small_model.config, documents, pixels, ()), max_grad_norm=0.01)
    assert float(report.norm) > 0.01
    total = torch.stack([gradient.norm() for gradient in gradients(small_model).values()]).norm()
    assert float(total) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_a_poisoned_step_leaves_the_weights_alone(
    small_model: LCLModel, documents: list[Tensor], pixels: Tensor, cuts: Sequence[int]
) -> None:
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    poisoned = pixels.clone()
    poisoned[0, 0, 0, 0] = float("nan")
    report = step(small_model, parts(small_model.config, documents, poisoned, cuts))
    assert float(report.finite) == 0
    assert all(torch.equal(value, before[name]) for name, value in small_model.state_dict().items())
    healthy = step(small_model, parts(small_model.config, documents, pixels, cuts))
    assert float(healthy.finite) == 1
    assert not torch.equal(small_model.lm_head[1].weight, before["lm_head.1.weight"])


def test_checkpointed_activations_change_nothing(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor
) -> None:
    plain, saving = build_model(small_config, seed=0), build_model(small_config, seed=0)
    saving.configure_blocks(checkpointing=True)
    kept = [_kept_bytes(model, parts(small_config, documents, pixels, ())) for model in (plain, saving)]
    assert kept[1] < 0.7 * kept[0]
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(saving)[name], gradient), name


def _kept_bytes(model: LCLModel, batches: list[PackedBatch]) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(model.train(), batches)
    return sum(storages.values())


def test_dropped_patches_are_not_looked_at(small_config: LCLConfig) -> None:
    model = build_model(small_config, seed=0)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([[0, 3], [1, 2]])
    block = [small_config.soi_token_id, *[small_config.img_token_id] * 2, small_config.eoi_token_id]
    rows = [torch.tensor([small_config.sot_token_id, 5, *block, 6, small_config.eot_token_id])] * 2
    first = PackedBatch.pack(rows, pixels, small_config, kept)
    changed = pixels.clone()
    changed[0, :, :8, 8:] += 1  # patch 1 of image 0
    changed[1, :, :8, :8] -= 1  # patch 0 of image 1
    second = PackedBatch.pack(rows, changed, small_config, kept)
    losses = [compute_loss(get_objective("lcl"), model, batch).loss for batch in (first, second)]
    assert torch.equal(*losses)
    everything = torch.arange(4).expand(2, -1)
    torch.testing.assert_close(model.visual(pixels, everything), model.visual(pixels))
