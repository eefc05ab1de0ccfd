"""Compiled blocks compute what plain ones do, for batches of any layout, and are compiled a bounded number of times."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lcl_core.model import LCLConfig, LCLModel, PackedBatch
from lcl_core.objectives.lcl import Lcl
from lcl_core.train import build_optimizer
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.train_step import TrainingStep

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("LCL_TEST_COMPILE"), reason="compiles for half a minute; set LCL_TEST_COMPILE=1"
    ),
    pytest.mark.skipif(
        not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="compiled blocks need a C++ compiler"
    ),
]


def batches(config: LCLConfig, documents: Sequence[Tensor], pixels: Tensor) -> list[PackedBatch]:
    """Of different lengths, numbers of documents, and groups in attention."""
    cuts = ((slice(0, 2), slice(0, 3)), (slice(1, 4), slice(1, 5)), (slice(0, 4), slice(0, 5)))
    return [PackedBatch.pack(documents[rows], pixels[images], config) for rows, images in cuts]


def learnt(model: LCLModel, batch: PackedBatch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a step that changes nothing."""
    step = TrainingStep(model.train(), Lcl.from_config(model.config), RankGroup())
    report = step(build_optimizer(model, lr=0.0), [batch])
    losses = {name: float(loss) for name, loss in report.losses.items()}
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_blocks_learn_the_same(small_config: LCLConfig, documents: list[Tensor], pixels: Tensor) -> None:
    torch.compiler.reset()
    plain, compiled = build_model(small_config, seed=0), build_model(small_config, seed=0)
    compiled.configure_blocks(compiled=True)
    graphs = []
    for batch in batches(small_config, documents, pixels):
        expected_losses, expected = learnt(plain, batch)
        losses, found = learnt(compiled, batch)
        graphs.append(counters["stats"]["unique_graphs"])
        assert losses == pytest.approx(expected_losses, rel=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            room = 2e-5 * float(gradient.abs().max()) + 1e-8
            torch.testing.assert_close(found[name], gradient, atol=room, rtol=0, msg=name)
    assert graphs[0] > 0
    # the first batches teach which sizes vary; from then on no layout is compiled anew
    assert graphs[2] == graphs[1]
