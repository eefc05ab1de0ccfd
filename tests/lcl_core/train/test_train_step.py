"""One step: the same whether the batch comes whole or in parts, and none at all when a number is not one."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.model.vision_towers import VitTower
from lcl_core.objectives import base
from lcl_core.objectives.base import EncodedBatch, Objective
from lcl_core.objectives.lcl import Lcl
from lcl_core.objectives.registry import build_objective
from lcl_core.ops.contrastive_loss import ContrastiveSums, contrastive_loss
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train import build_optimizer, train_step
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.input_pipeline import HostBatch
from lcl_core.train.train_step import StepReport, TrainingStep
from tests.lcl_core.batch_partitions import VARIANTS, partition_batches, rows_of_variant
from tests.lcl_core.reference_loss import compute_loss
from tests.lcl_core.train.host_batches import count_images_on_device


def step(
    model: LCLModel, batches: Sequence[PackedBatch], objective: Objective | None = None, **options: float
) -> StepReport:
    taken = TrainingStep(model, objective or Lcl.from_config(model.config), RankGroup(), **options)
    return taken(build_optimizer(taken.trained, lr=1e-3), batches, compute_metrics=True)


def parts(config: LCLConfig, documents: Sequence[Tensor], pixels: Tensor, cuts: Sequence[int]) -> list[PackedBatch]:
    """The documents in micro-batches that begin at 0 and at ``cuts``."""
    ends = [*cuts, len(documents)]
    return partition_batches(Lcl.from_config(config), documents, pixels, config, list(map(range, [0, *cuts], ends)))


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for module in modules for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("hands", [[[0], [1, 2, 3]], [[3, 2], [1, 0]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_are_the_one_big_batch(
    small_config: LCLConfig,
    documents: list[Tensor],
    pairs: list[Tensor],
    pixels: Tensor,
    name: str,
    hands: Sequence[Sequence[int]],
) -> None:
    rows = rows_of_variant(VARIANTS[name], documents, pairs)
    images = pixels[: sum(int((row == small_config.soi_token_id).sum()) for row in rows)]
    found, reports = [], []
    for dealing in ([[0, 1, 2, 3]], hands):
        model, objective = (
            build_model(small_config, seed=0),
            build_objective(ObjectiveSpec(**VARIANTS[name]), small_config),
        )
        batches = partition_batches(objective, rows, images, small_config, dealing)
        reports.append(step(model, batches, objective))
        found.append(gradients(model, objective))
    whole, apart = found
    trained = [parts for parts in (*model.named_parameters(), *objective.named_parameters()) if parts[1].requires_grad]
    assert apart.keys() == whole.keys() == dict(trained).keys()
    for parameter, gradient in whole.items():
        # some gradients are zero but for round-off, such as the pooler's key bias: softmax does not see shifts
        # that of the temperature is a sum of logits of both signs, whose round-off is relative to the largest of them
        summand = float(model.logit_scale.exp()) if parameter == "logit_scale" else 1.0
        room = 2e-6 * float(gradient.abs().max()) + 2e-7 * summand
        torch.testing.assert_close(apart[parameter], gradient, atol=room, rtol=0, msg=parameter)
    one, several = reports
    assert {loss: float(value) for loss, value in several.losses.items()} == pytest.approx(
        {loss: float(value) for loss, value in one.losses.items()}, rel=1e-6
    )
    for metric in one.metrics.keys() & {"in_batch_accuracy", "matching_accuracy", "masked_text_accuracy"}:
        assert [float(x) for x in (several.metrics[metric].total, several.metrics[metric].count)] == [
            float(x) for x in (one.metrics[metric].total, one.metrics[metric].count)
        ]


def test_the_step_follows_the_plain_loss(small_model: LCLModel, documents: list[Tensor], pixels: Tensor) -> None:
    batch = PackedBatch.pack(documents, pixels, small_model.config)
    out = compute_loss(Lcl.from_config(small_model.config), small_model, batch)
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


def test_the_contrastive_loss_and_its_gradient_may_round_to_tf32(
    small_model: LCLModel, documents: list[Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its products are the step's only ones outside of autocast; on a CPU the precision manager changes nothing."""
    within: list[str] = []
    computed = []

    @contextmanager
    def recorded(device: torch.device, precision: str) -> Iterator[None]:
        within.append(precision)
        yield
        within.pop()

    def loss(*arguments: Any) -> ContrastiveSums:
        sums = contrastive_loss(*arguments)
        sums.loss.register_hook(lambda _: computed.append(list(within)))
        computed.append(list(within))
        return sums

    monkeypatch.setattr(train_step, "tf32_matmul", recorded)
    monkeypatch.setattr(base, "contrastive_loss", loss)
    step(small_model, parts(small_model.config, documents, pixels, ()))
    assert computed == [["fp32"], ["fp32"]]


def test_no_activations_wait_for_the_joint_loss(
    small_model: LCLModel, documents: list[Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs and candidates of all micro-batches are enough."""
    kept: list[weakref.ref[Tensor]] = []
    present: list[list[bool]] = []
    encode = Lcl.encode

    def recorded(self: Lcl, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        encoded = encode(self, model, batch)
        kept.append(weakref.ref(encoded.activations.hidden))
        return encoded

    def loss(*arguments: Any) -> ContrastiveSums:
        present.append([tensor() is not None for tensor in kept])
        return contrastive_loss(*arguments)

    monkeypatch.setattr(Lcl, "encode", recorded)
    monkeypatch.setattr(base, "contrastive_loss", loss)
    step(small_model, parts(small_model.config, documents, pixels, (1, 2)))
    assert present == [[False, False, False]]


@pytest.mark.parametrize("name", VARIANTS)
def test_one_micro_batch_at_a_time_is_on_the_device(
    small_config: LCLConfig,
    documents: list[Tensor],
    pairs: list[Tensor],
    pixels: Tensor,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of_variant(VARIANTS[name], documents, pairs)
    images = pixels[: sum(int((row == small_config.soi_token_id).sum()) for row in rows)]
    found = []
    for wrapped in (False, True):
        model, objective = (
            build_model(small_config, seed=0),
            build_objective(ObjectiveSpec(**VARIANTS[name]), small_config),
        )
        batches = partition_batches(objective, rows, images, small_config, [[0], [1], [2], [3]])
        with monkeypatch.context() as patch:
            present = count_images_on_device(patch)
            step(model, [HostBatch(batch) for batch in batches] if wrapped else batches, objective)
        found.append(gradients(model, objective))
    assert len(present) in (4, 8)  # with gradient caching each micro-batch is computed twice
    assert not any(present)
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


def test_checkpointed_activations_change_nothing(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor
) -> None:
    plain, saving = build_model(small_config, seed=0), build_model(small_config, seed=0)
    saving.configure_blocks(checkpointing=True)
    kept = [_kept_bytes(model, parts(small_config, documents, pixels, ())) for model in (plain, saving)]
    assert kept[1] < 0.7 * kept[0]
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(saving)[name], gradient), name


def recorded_branches(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Which branches each pass of the vision tower keeps."""
    draws: list[Tensor] = []
    draw = VitTower._draw_kept_branches

    def record(self: VitTower, images: int, device: torch.device) -> Tensor:
        draws.append(draw(self, images, device))
        return draws[-1]

    monkeypatch.setattr(VitTower, "_draw_kept_branches", record)
    return draws


def test_both_passes_of_a_micro_batch_skip_the_same_branches(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = recorded_branches(monkeypatch)
    model = build_model(small_config, seed=0).train()
    model.configure_blocks(drop_path=0.5)
    torch.manual_seed(0)
    for _ in range(2):
        step(model, parts(small_config, documents, pixels, [1, 2]))
    first, second = draws[:6], draws[6:]
    for cached, trained in zip((*first[:3], *second[:3]), (*first[3:], *second[3:]), strict=True):
        assert torch.equal(cached, trained)
    assert not any(torch.equal(*each) for each in zip(first, second, strict=True))


@pytest.mark.parametrize("cuts", [[], [2]])
def test_skipped_branches_are_the_same_when_activations_are_recomputed(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor, cuts: list[int]
) -> None:
    found = []
    for checkpointing in (False, True):
        model = build_model(small_config, seed=0).train()
        model.configure_blocks(drop_path=0.5, checkpointing=checkpointing)
        torch.manual_seed(3)
        step(model, parts(small_config, documents, pixels, cuts))
        found.append(gradients(model))
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


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
    losses = [compute_loss(Lcl.from_config(small_config), model, batch).loss for batch in (first, second)]
    assert torch.equal(*losses)
    everything = torch.arange(4).expand(2, -1)
    torch.testing.assert_close(model.visual(pixels, everything), model.visual(pixels))


@pytest.fixture
def lone_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_rank")
def test_sharded_weights_are_left_alone_too_without_asking_the_device(
    small_model: LCLModel, documents: list[Tensor], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FSDP2 on one rank: weights are DTensors. Reading a scalar on the host would wait for the device."""
    ranks = RankGroup()  # one; then the strategy sees two
    monkeypatch.setattr("lcl_core.train.distributed.dist.get_world_size", lambda: 2)
    monkeypatch.setattr("lcl_core.train.distributed.init_device_mesh", lambda kind, _: init_device_mesh(kind, (1,)))
    taken = TrainingStep(small_model, Lcl.from_config(small_model.config), ranks, strategy="fsdp2")
    monkeypatch.undo()
    optimizer = build_optimizer(taken.trained, lr=1e-3)
    weight = small_model.lm_head[1].weight
    assert isinstance(weight, DTensor)
    for poisoned in (True, False):
        images = pixels * float("nan") if poisoned else pixels
        before = weight.full_tensor().detach().clone()
        batch = parts(small_model.config, documents, images, [])
        with monkeypatch.context() as forbidden:
            forbidden.setattr(Tensor, "item", lambda self: pytest.fail("the host waits for the device"))
            report = taken(optimizer, batch)
        assert float(report.finite) == (not poisoned)
        assert torch.equal(weight.full_tensor(), before) == poisoned
