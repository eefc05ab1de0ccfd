"""One step: the same whether the batch comes whole or in parts, and none at all when a number is not one."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lcl_core.model import PackedBatch
from lcl_core.objectives import base, build_objective
from lcl_core.objectives.lcl import Lcl
from lcl_core.ops.contrastive_loss import contrastive_loss
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.batch_partitions import VARIANTS, partition_batches, rows_of_variant
from tests.lcl_core.reference_loss import compute_loss


def step(model, batches, objective=None, **options):
    taken = TrainingStep(model, objective or Lcl.from_config(model.config), RankGroup(), **options)
    return taken(build_optimizer(taken.trained, lr=1e-3), batches, compute_metrics=True)


def parts(config, documents, pixels, cuts):
    """The documents in micro-batches that begin at 0 and at ``cuts``."""
    ends = [*cuts, len(documents)]
    return partition_batches(Lcl.from_config(config), documents, pixels, config, list(map(range, [0, *cuts], ends)))


def gradients(*modules):
    return {name: p.grad.clone() for module in modules for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("hands", [[[0], [1, 2, 3]], [[3, 2], [1, 0]], [[0], [1], [2], [3]]])
@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_are_the_one_big_batch(small_config, documents, pairs, pixels, name, hands):
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


def test_the_step_follows_the_plain_loss(small_model, documents, pixels):
    batch = PackedBatch.pack(documents, pixels, small_model.config)
    out = compute_loss(Lcl.from_config(small_model.config), small_model, batch)
    expected = torch.autograd.grad(out.loss, list(small_model.parameters()), allow_unused=True)
    report = step(small_model, [batch])
    assert float(report.losses["contrastive"]) == pytest.approx(float(out.contrastive_loss.detach()), rel=1e-6)
    for parameter, gradient in zip(small_model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_long_gradients_are_clipped(small_model, documents, pixels):
    report = step(small_model, parts(small_model.config, documents, pixels, ()), max_grad_norm=0.01)
    assert float(report.norm) > 0.01
    total = torch.stack([gradient.norm() for gradient in gradients(small_model).values()]).norm()
    assert float(total) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_a_poisoned_step_leaves_the_weights_alone(small_model, documents, pixels, cuts):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    poisoned = pixels.clone()
    poisoned[0, 0, 0, 0] = float("nan")
    report = step(small_model, parts(small_model.config, documents, poisoned, cuts))
    assert float(report.finite) == 0
    assert all(torch.equal(value, before[name]) for name, value in small_model.state_dict().items())
    healthy = step(small_model, parts(small_model.config, documents, pixels, cuts))
    assert float(healthy.finite) == 1
    assert not torch.equal(small_model.lm_head[1].weight, before["lm_head.1.weight"])


def test_no_activations_wait_for_the_joint_loss(small_model, documents, pixels, monkeypatch):
    """Pairs and candidates of all micro-batches are enough."""
    kept = []
    present = []
    encode = Lcl.encode

    def recorded(self, model, batch):
        encoded = encode(self, model, batch)
        kept.append(weakref.ref(encoded.activations.hidden))
        return encoded

    def loss(*arguments):
        present.append([tensor() is not None for tensor in kept])
        return contrastive_loss(*arguments)

    monkeypatch.setattr(Lcl, "encode", recorded)
    monkeypatch.setattr(base, "contrastive_loss", loss)
    step(small_model, parts(small_model.config, documents, pixels, (1, 2)))
    assert present == [[False, False, False]]


def test_checkpointed_activations_change_nothing(small_config, documents, pixels):
    plain, saving = build_model(small_config, seed=0), build_model(small_config, seed=0)
    saving.configure_blocks(checkpointing=True)
    kept = [_kept_bytes(model, parts(small_config, documents, pixels, ())) for model in (plain, saving)]
    assert kept[1] < 0.7 * kept[0]
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradients(saving)[name], gradient), name


def _kept_bytes(model, batches):
    """Bytes that the forward pass keeps for the backward pass."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(model.train(), batches)
    return sum(storages.values())


@pytest.fixture
def lone_rank():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("lone_rank")
def test_sharded_weights_are_left_alone_too_without_asking_the_device(small_model, documents, pixels, monkeypatch):
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
