"""A run with each vision tower on the sample corpus: resumed it is bitwise the same; its encoder loads and answers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lcl_core.common.errors import UserError
from lcl_core.encoders.lcl import LCLEncoder
from lcl_core.encoders.registry import load_image_encoder
from tests.lcl_core.train.rank_processes import run_ranks
from tests.lcl_core.train.small_runs import TINY, curve, prepared, trainer, weights

SHORT = {"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 3, "log_every": 2}
TOWERS = {
    "resnet": {"model": {"patch_size": 8, "vision_layers": 3}},
    "timm:resnet18": {"model": {"patch_size": 8, "vision_width": 128}},
}


@pytest.mark.parametrize("vision", TOWERS)
def test_resumed_it_is_bitwise_the_same_and_its_encoder_answers(tmp_path, sample_zip, vision):
    model = {**TINY["model"], "vision": vision, **TOWERS[vision]["model"]}
    settings = {**SHORT, **TOWERS[vision], "model": model}
    alone, resumed = (prepared(tmp_path / run, sample_zip, **settings) for run in ("alone", "resumed"))
    trainer(alone).run()
    shutil.copytree(alone.checkpoints / "step_00000001", resumed.checkpoints / "step_00000001")
    trainer(resumed).run()
    assert curve(resumed) == curve(alone)
    for group in ("model", "optimizer"):
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
    assert isinstance(encoder, LCLEncoder)
    grouped = [parameter for layer in encoder.layers() for parameter in layer]
    assert {id(each) for each in grouped} == {id(each) for each in encoder.module.parameters()}
    assert len(grouped) == len({id(each) for each in grouped})
    assert encoder.random_init().encode(pixels)[1].shape == patches.shape


def test_a_timm_network_that_is_not_of_the_weights_is_refused_before_it_is_built(tmp_path, sample_zip):
    model = {**TINY["model"], "vision": "timm:resnet18", **TOWERS["timm:resnet18"]["model"]}
    run = prepared(tmp_path / "run", sample_zip, **{**SHORT, "steps": 1, "model": model})
    trainer(run).run()
    directory = run.artifacts / "encoder"
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vision": "timm:resnet34"}))
    with pytest.raises(UserError, match=r"lack .* of the names|names differ") as caught:
        load_image_encoder(directory)
    assert caught.value.code == "encoder_unreadable"


@pytest.mark.extended
@pytest.mark.parametrize(
    "changes",
    [
        {"vision": "timm:convnext_atto", "vision_width": 80},
    ],
)
def test_two_ranks_learn_what_one_process_learns(small_config, documents, pixels, tmp_path, changes):
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
