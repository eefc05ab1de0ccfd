"""Compiled blocks compute what plain ones do, for batches of any layout, and are compiled a bounded number of times."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from lcl_core.common.device import onednn_fp32_matmul
from lcl_core.model import LCLConfig, PackedBatch
from lcl_core.objectives.lcl import Lcl
from lcl_core.train.distributed import RankGroup
from lcl_core.train.factory import build_model
from lcl_core.train.optimizer import build_optimizer
from lcl_core.train.train_step import TrainingStep
from tests.lcl_core.train.rank_processes import run_ranks

MODULE = "tests.lcl_core.train.multi_rank_steps"
pytestmark = [
    pytest.mark.extended,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("LCL_TEST_COMPILE"), reason="compiles for minutes; set LCL_TEST_COMPILE=1"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="compiled blocks need a C++ compiler"
    ),
]


def batches(config, documents, pixels):
    """Of different lengths, numbers of documents and groups in attention; of 3, 3, 4, 5 and 2 images."""
    cuts = ((0, 2, 0, 3), (0, 2, 0, 3), (1, 4, 1, 5), (0, 4, 0, 5), (2, 4, 3, 5))
    return [PackedBatch.pack(documents[a:b], pixels[c:d], config) for a, b, c, d in cuts]


def learnt(model, batch):
    """Losses and gradients of a step that changes nothing."""
    step = TrainingStep(model.train(), Lcl.from_config(model.config), RankGroup())
    report = step(build_optimizer(model, lr=0.0), [batch])
    losses = {name: float(loss) for name, loss in report.losses.items()}
    return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_learn_the_same(small_config, documents, pixels, checkpointing):
    torch.compiler.reset()
    counters.clear()
    plain, compiled = build_model(small_config, seed=0), build_model(small_config, seed=0)
    compiled.configure_blocks(compiled=True, checkpointing=checkpointing)
    graphs = []
    with onednn_fp32_matmul():  # as a run computes
        for batch in batches(small_config, documents, pixels):
            expected_losses, expected = learnt(plain, batch)
            losses, found = learnt(compiled, batch)
            graphs.append(counters["stats"]["unique_graphs"])
            assert losses == pytest.approx(expected_losses, rel=1e-6)
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                room = 2e-5 * float(gradient.abs().max()) + 2e-8
                torch.testing.assert_close(found[name], gradient, atol=room, rtol=0, msg=name)
    assert graphs[0] > 0
    assert graphs[1] == graphs[0]
    # the first other number of images makes it symbolic; from then on nothing is compiled anew
    assert graphs[2:] == [graphs[2]] * 3
    # the vision blocks are one graph; attention over packed text stays out of that tower's
    assert [str(reason).partition("\n")[0] for reason in counters["graph_break"]] == [
        "Skip calling `torch.compiler.disable()`d function"
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_stage_of_resnet_is_compiled_once(small_config, pixels, checkpointing):
    """Its grids differ from stage to stage; only the number of images may become symbolic."""
    torch.compiler.reset()
    counters.clear()
    config = LCLConfig(**{**small_config.to_dict(), "vision": "resnet", "vision_layers": 3})
    plain, compiled = (build_model(config, seed=0).visual.train() for _ in range(2))
    compiled.configure_blocks(checkpointing=checkpointing, compiled=True)
    graphs = []
    for count in (3, 4, 5, 2):
        features = [tower(pixels[:count]) for tower in (plain, compiled)]
        torch.testing.assert_close(features[1], features[0], atol=1e-5, rtol=1e-5)
        for each in features:
            each.square().mean().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    for (name, own), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert graphs == [4] * 4  # patches, blocks of either width, the halving between


def test_compiled_blocks_with_checkpointing_are_sharded(small_config, documents, pixels, tmp_path):
    """Two ranks under fsdp2 learn what one process learns with plain blocks."""
    results = {}
    blocks = {"compiled": True, "checkpointing": True}
    for name, hands, options in (("plain", [[[0, 1, 2, 3]]], {}), ("sharded", [[[0, 1, 2]], [[3]]], blocks)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(small_config.to_json_string(use_diff=False))
        for kind in ("documents", "pairs"):
            save_file({f"{number}": row for number, row in enumerate(documents)}, folder / f"{kind}.safetensors")
        save_file({"pixels": pixels}, folder / "pixels.safetensors")
        words = [str(len(hands)), "fsdp2", json.dumps(hands), json.dumps(["lcl"]), json.dumps(options)]
        run_ranks([[MODULE, str(folder), str(rank), *words] for rank in range(len(hands))])
        results[name] = load_file(folder / "result.safetensors")
    assert results["sharded"].keys() == results["plain"].keys()
    for key, tensor in results["plain"].items():
        if ".grad." in key:
            room = 2e-5 * max(float(tensor.abs().max()), 1e-3) + 2e-6
            torch.testing.assert_close(results["sharded"][key], tensor, atol=room, rtol=0, msg=key)
