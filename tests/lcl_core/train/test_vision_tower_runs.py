"""A run with each vision tower on the sample corpus: resumed it is bitwise the same; its encoder loads and answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import sha256_file
from lcl_core.encoders.captioning import AttentionMaps
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.model import LCLConfig
from lcl_core.train.ema import ema_decay
from tests.lcl_core.train.rank_processes import run_ranks
from tests.lcl_core.train.small_runs import TINY, curve, prepared, trainer, weights

SHORT: dict[str, Any] = {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 3, "log_every": 2, "ema_decay": 0.9}
TOWERS: dict[str, dict[str, Any]] = {
    "hybrid": {"model": {"patch_size": 8}, "patch_drop": 0.25, "batch": {"tokens": 1024, "images": 16}},
    "convnext": {"model": {"patch_size": 8, "vision_layers": 3}},
    "resnet": {"model": {"patch_size": 8, "vision_layers": 3}},
    "timm:resnet18": {"model": {"patch_size": 8, "vision_width": 128}},
}


@pytest.mark.parametrize("vision", TOWERS)
def test_resumed_it_is_bitwise_the_same_and_its_encoder_answers(tmp_path: Path, sample_zip: Path, vision: str) -> None:
    model = {**TINY["model"], "vision": vision, **TOWERS[vision]["model"]}
    settings = {**SHORT, **TOWERS[vision], "model": model}
    alone, resumed = (prepared(tmp_path / run, sample_zip, **settings) for run in ("alone", "resumed"))
    trainer(alone).run()
    shutil.copytree(alone.checkpoints / "step_00000001", resumed.checkpoints / "step_00000001")
    trainer(resumed).run()
    assert curve(resumed) == curve(alone)
    for group in ("model", "optimizer", "ema"):
        first, second = (run.checkpoints / "step_00000003" / f"{group}.safetensors" for run in (alone, resumed))
        assert first.read_bytes() == second.read_bytes(), group
    assert weights(resumed) == weights(alone)

    directory = alone.artifacts / "encoder"
    assert json.loads((directory / "config.json").read_text())["vision"] == vision
    encoder = load_image_encoder(directory)
    assert (encoder.tokens, encoder.width) == (16, model["vision_width"])
    pixels = encoder.preprocess([Image.new("RGB", (40, 60), colour) for colour in ("red", "blue")])
    pooled, patches = encoder.encode(pixels)
    assert pooled is not None
    assert pooled.isfinite().all()
    assert patches.shape == (2, 16, encoder.width)
    assert isinstance(encoder, AttentionMaps)
    maps = encoder.attention_maps(pixels)
    assert maps.shape == (2, 2, 4, 4)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 2))
    grouped = [parameter for layer in encoder.layers() for parameter in layer]
    assert {id(each) for each in grouped} == {id(each) for each in encoder.module.parameters()}
    assert len(grouped) == len({id(each) for each in grouped})
    assert encoder.random_init().encode(pixels)[1].shape == patches.shape


def test_a_run_of_an_older_version_averages_its_statistics_from_now_on(tmp_path: Path, sample_zip: Path) -> None:
    model = {**TINY["model"], "vision": "resnet", **TOWERS["resnet"]["model"]}
    run = prepared(tmp_path / "run", sample_zip, **{**SHORT, "steps": 2, "model": model})
    trainer(run).run()
    shutil.rmtree(run.checkpoints / "step_00000002")
    checkpoint = run.checkpoints / "step_00000001"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    averages = load_file(checkpoint / "ema.safetensors")
    statistics = {name for name in averages if name.endswith(("running_mean", "running_var"))}
    assert statistics
    save_file({name: averages[name] for name in averages if name not in statistics}, checkpoint / "ema.safetensors")
    manifest["files"]["ema.safetensors"] = sha256_file(checkpoint / "ema.safetensors")
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    trainer(run).run()
    first, last, averages = (
        load_file(run.checkpoints / file)
        for file in (
            "step_00000001/model.safetensors",
            "step_00000002/model.safetensors",
            "step_00000002/ema.safetensors",
        )
    )
    exported = load_file(run.artifacts / "encoder" / "model.safetensors")
    for name in statistics:
        torch.testing.assert_close(averages[name], first[name].lerp(last[name], 1 - ema_decay(1, 0.9)))
        assert torch.equal(exported[name.removeprefix("model.")], averages[name])


def test_a_timm_network_that_is_not_of_the_weights_is_refused_before_it_is_built(
    tmp_path: Path, sample_zip: Path
) -> None:
    model = {**TINY["model"], "vision": "timm:resnet18", **TOWERS["timm:resnet18"]["model"]}
    run = prepared(tmp_path / "run", sample_zip, **{**SHORT, "steps": 1, "model": model})
    trainer(run).run()
    directory = run.artifacts / "encoder"
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vision": "timm:resnet34"}))
    with pytest.raises(UserError, match=r"lack .* of the names|names differ") as caught:
        load_image_encoder(directory)
    assert caught.value.code == "encoder_unreadable"


@pytest.mark.parametrize(
    "changes",
    [
        {"vision": "hybrid"},
        {"vision": "convnext", "vision_layers": 3},
        {"vision": "timm:convnext_atto", "vision_width": 80},
    ],
)
def test_two_ranks_learn_what_one_process_learns(
    small_config: LCLConfig, documents: list[Tensor], pixels: Tensor, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Blocks sharded and recomputed, replicated with micro-batches, and plain."""
    again = {"checkpointing": True}
    cases = {
        "plain": ("ddp", [[[0, 1, 2, 3]]], {}),
        "sharded": ("fsdp2", [[[0, 1, 2]], [[3]]], again),
        "replicated": ("ddp", [[[1], [0]], [[3], [2]]], {}),
    }
    results = {}
    for name, (strategy, hands, options) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**small_config.to_dict(), **changes}))
        for kind in ("documents", "pairs"):
            save_file({f"{number}": row for number, row in enumerate(documents)}, folder / f"{kind}.safetensors")
        save_file({"pixels": pixels}, folder / "pixels.safetensors")
        words = [str(len(hands)), strategy, json.dumps(hands), json.dumps(["lcl"]), json.dumps(options)]
        run_ranks(
            [["tests.lcl_core.train.multi_rank_steps", str(folder), str(rank), *words] for rank in range(len(hands))]
        )
        results[name] = load_file(folder / "result.safetensors")
    for name in ("sharded", "replicated"):
        assert results[name].keys() == results["plain"].keys()
        for key, tensor in results["plain"].items():
            if ".grad." in key:
                room = 2e-5 * max(float(tensor.abs().max()), 1e-3) + 2e-6
                torch.testing.assert_close(results[name][key], tensor, atol=room, rtol=0, msg=f"{name}: {key}")
