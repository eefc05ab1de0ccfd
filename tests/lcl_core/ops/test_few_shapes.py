"""Products on a CPU have few shapes, and what they are padded with changes nothing."""

from __future__ import annotations

import torch

from lcl_core.ops.attention import CausalLayout, attend
from lcl_core.ops.recompute import pad_rows
from lcl_core.train.factory import build_model


def test_few_shapes_reach_the_products(small_config):
    """Texts of 3 to 40 tokens, one a batch: the blocks see one number of rows, in evaluation the true ones."""
    model = build_model(small_config, seed=0)
    seen = []
    model.text.transformer.blocks[0].register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    for training, expected in ((True, {64}), (False, set(range(3, 41)))):
        seen.clear()
        model.train(training)
        for length in range(3, 41):
            layout = CausalLayout.from_lengths([length])
            out = model.text(torch.zeros(length, small_config.text_width), torch.arange(length), layout)
            assert len(out) == length
        assert set(seen) == expected


def test_rows_behind_the_documents_are_zero_and_get_no_gradient():
    layout = CausalLayout.from_lengths([5, 3])
    qkv = torch.randn(12, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    out = attend(qkv, 2, layout, 0)
    torch.testing.assert_close(out[:8], attend(qkv[:8], 2, layout, 0))
    assert not out[8:].any()
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    assert gradient[:8].any(dim=1).all()
    assert not gradient[8:].any()


def test_products_are_padded():
    rows = torch.ones(65, 2)
    padded = pad_rows(rows)
    assert padded.shape == (128, 2)
    assert torch.equal(padded[:65], rows)
    assert not padded[65:].any()
    assert pad_rows(rows[:64]).data_ptr() == rows.data_ptr()
