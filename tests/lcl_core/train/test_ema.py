"""The averaged weights: their recursion, their way into a checkpoint and into the encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lcl_core.common.errors import UserError
from lcl_core.common.run_dir import RunDir
from lcl_core.data.tokenizer import train_bpe
from lcl_core.model import LCLModel, LCLProcessor
from lcl_core.specs.pretrain import PretrainSpec
from lcl_core.train.checkpoint.manager import CheckpointManager
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.ema import Ema, ema_decay
from lcl_core.train.trainer import export_encoder


def drift(model: nn.Module, step: int) -> None:
    """As an optimiser would: every weight moves, the same way for the same step."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def test_the_decay_grows_to_its_value() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(90, 0.999) == pytest.approx(0.91)
    assert ema_decay(10**6, 0.999) == 0.999
    assert ema_decay(0, 0.05) == 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_the_recursion(warmup: bool, dtype: torch.dtype) -> None:
    model = nn.Linear(3, 2).to(dtype)
    ema = Ema(model, 0.8, warmup)
    expected = model.weight.detach().double()
    for step in range(30):
        drift(model, step)
        ema.update(step)
        decay = min(0.8, (1 + step) / (10 + step)) if warmup else 0.8
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert ema.tensors["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.tensors["weight"].double(), expected, rtol=1e-5, atol=1e-5)


def test_frozen_parameters_are_left_alone() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert set(Ema(model, 0.9).tensors) == {"weight"}


def normalised() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.register_buffer("computed", torch.zeros(2), persistent=False)
    return model


def test_running_statistics_are_averaged_with_the_weights() -> None:
    model = normalised()
    ema, norm = Ema(model, 0.5, warmup=False), model[1]
    assert ema.statistics == {"1.running_mean", "1.running_var"}
    assert ema.tensors.keys() == {name for name, _ in model.named_parameters()} | ema.statistics
    expected = norm.running_mean.clone()
    for step in range(3):
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
        ema.update(step)
        expected = 0.5 * expected + 0.5 * norm.running_mean
    own = norm.running_mean.clone()
    assert not torch.equal(own, expected)
    with ema.swapped():
        torch.testing.assert_close(norm.running_mean, expected)
        assert int(norm.num_batches_tracked) == 3
    assert torch.equal(norm.running_mean, own)
    ema.restart()
    assert torch.equal(ema.tensors["1.running_mean"], own)


def test_checkpoints_of_older_versions_have_no_averaged_statistics(tmp_path: Path) -> None:
    model, again = normalised(), normalised()
    old, new = Ema(model, 0.9), Ema(again, 0.9)
    model(torch.randn(8, 3))
    with CheckpointManager(tmp_path) as saver:
        parameters = {name: old.tensors[name] for name, _ in model.named_parameters()}
        saver.save(3, {"model": model.state_dict(), "ema": parameters}, {})
        into = {"model": again.state_dict(), "ema": new.tensors}
        with pytest.raises(UserError, match=r"1\.running_mean is missing"):
            saver.load_newest(into)
        loaded = saver.load_newest(into, optional={"ema": new.statistics})
    assert loaded is not None
    assert set(loaded.lacking["ema"]) == new.statistics
    new.restart(loaded.lacking["ema"])
    assert torch.equal(new.tensors["1.running_mean"], model[1].running_mean)
    assert torch.equal(new.tensors["0.weight"], old.tensors["0.weight"])


def test_resumed_it_goes_on_bitwise(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.9)
    for step in range(3):
        drift(model, step)
        ema.update(step)
    again = nn.Linear(3, 2)
    resumed = Ema(again, 0.9)
    with CheckpointManager(tmp_path) as saver:
        saver.save(3, {"model": model.state_dict(), "ema": ema.tensors}, {})
        assert saver.load_newest({"model": again.state_dict(), "ema": resumed.tensors}) is not None
    for weights, average in ((model, ema), (again, resumed)):
        drift(weights, 3)
        average.update(3)
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in ema.tensors.items())


def test_swapped_in_and_out_again() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.9)
    drift(model, 0)
    ema.update(0)
    own, average = model.weight.detach().clone(), ema.tensors["weight"].clone()
    seen = []

    def interrupted() -> None:
        with ema.swapped():
            seen.append(model.weight.detach().clone())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(seen[0], average)
    assert torch.equal(model.weight, own)
    assert torch.equal(ema.tensors["weight"], average)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_encoder_has_the_averages_when_there_are_some(
    small_model: LCLModel, tmp_path: Path, averaged: bool
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.prepare({})
    ema = Ema(small_model, 0.9)
    drift(small_model, 0)
    processor = LCLProcessor(train_bpe(["a cat on a mat"], 300), 16)
    result: dict[str, Any] = export_encoder(
        small_model, processor, run_dir, PretrainSpec(), TrainingProgress(step=5), {}, ema if averaged else None
    )
    folder = run_dir.artifacts / "encoder"
    exported = load_file(folder / "model.safetensors")
    weights = ema.tensors if averaged else small_model.state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in weights.items())
    assert json.loads((folder / "training.json").read_text())["weights"] == ("ema" if averaged else "last")
    assert result["encoder"]["steps"] == 5
    assert isinstance(LCLModel.from_pretrained(folder), LCLModel)
