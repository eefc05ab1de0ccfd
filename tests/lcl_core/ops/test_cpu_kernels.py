"""Both generations of kernels compute the same, the newer one products of few shapes; old runs keep theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.lcl import Lcl
from lcl_core.ops.attention import CausalLayout, attend
from lcl_core.ops.cpu_kernels import GENERATIONS, NEWEST, cpu_kernels, pad_rows, use_cpu_kernels
from lcl_core.train import build_optimizer
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.train_step import TrainingStep


@pytest.fixture(autouse=True)
def _newest_afterwards() -> Iterator[None]:
    yield
    use_cpu_kernels(NEWEST)


def test_gradients_of_a_step_agree(small_config: LCLConfig, documents: list[Tensor], pixels: Tensor) -> None:
    gradients = {}
    for generation in GENERATIONS:
        use_cpu_kernels(generation)
        model, objective = build_model(small_config, seed=0), Lcl.from_config(small_config)
        batch = PackedBatch.pack(documents, pixels, small_config)
        step = TrainingStep(model.train(), objective, RankGroup())
        step(build_optimizer(step.trained, lr=0.0), [batch])
        gradients[generation] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert gradients[1].keys() == gradients[2].keys()
    for name, gradient in gradients[1].items():
        room = 1e-5 * float(gradient.abs().max()) + 2e-7
        torch.testing.assert_close(gradients[2][name], gradient, atol=room, rtol=0, msg=name)


def test_few_shapes_reach_the_products(small_config: LCLConfig) -> None:
    """Texts of 3 to 40 tokens, one a batch: the blocks see one number of rows, in evaluation the true ones."""
    model = build_model(small_config, seed=0)
    seen: list[int] = []
    model.text.transformer.blocks[0].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    for training, expected in ((True, {64}), (False, set(range(3, 41)))):
        seen.clear()
        model.train(training)
        for length in range(3, 41):
            layout = CausalLayout.from_lengths([length])
            out = model.text(torch.zeros(length, small_config.text_width), torch.arange(length), layout)
            assert len(out) == length
        assert set(seen) == expected


def test_rows_behind_the_documents_are_zero_and_get_no_gradient() -> None:
    layout = CausalLayout.from_lengths([5, 3])
    qkv = torch.randn(12, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    out = attend(qkv, 2, layout, 0)
    torch.testing.assert_close(out[:8], attend(qkv[:8], 2, layout, 0))
    assert not out[8:].any()
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    assert gradient[:8].any(dim=1).all()
    assert not gradient[8:].any()


def test_only_products_of_the_newest_are_padded() -> None:
    rows = torch.ones(65, 2)
    padded = pad_rows(rows)
    assert padded.shape == (128, 2)
    assert torch.equal(padded[:65], rows)
    assert not padded[65:].any()
    assert pad_rows(rows[:64]).data_ptr() == rows.data_ptr()
    use_cpu_kernels(1)
    assert pad_rows(rows) is rows
    assert cpu_kernels() is GENERATIONS[1]


def test_a_run_keeps_the_kernels_that_it_began_with() -> None:
    begun = TrainingProgress().to_json()
    assert TrainingProgress.from_json(begun).cpu_kernels == NEWEST
    del begun["cpu_kernels"]  # as versions before wrote it
    assert TrainingProgress.from_json(begun).cpu_kernels == 1
