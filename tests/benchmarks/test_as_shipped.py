"""The step written the usual way: its form, and that it is the same step as the product's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import as_shipped
from benchmarks.documents import to_batches
from lcl_core.common.device import pick_device
from lcl_core.common.errors import UserError
from lcl_core.encoders.original_checkpoint import config_to_official
from lcl_core.model import LCLConfig
from lcl_core.train.factory import build_model
from tests.module_process import run_module

pytestmark = pytest.mark.extended

DOCUMENTS: list[dict[str, Any]] = [
    {"items": [{"ids": [5, 6, 7]}, {"image": 1}, {"ids": [8]}]},
    {"items": [{"image": 4}, {"ids": [4]}, {"ids": [9, 9]}, {"image": 2}, {"image": 3}]},
    {"items": [{"ids": [11] * 20}]},
]
TOKENS, IMAGES = 12 + 23 + 22, 4
FIELDS = {"seconds_per_step", "images_per_s", "peak_rss_gib", "contrastive_loss", "generation_loss"}


@pytest.fixture
def files(small_config: LCLConfig, tmp_path: Path) -> list[str]:
    (tmp_path / "config.json").write_text(json.dumps(config_to_official(small_config)))
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    return ["--config", str(tmp_path / "config.json"), "--documents", str(tmp_path / "docs.jsonl")]


def run(name: str, *arguments: str) -> dict[str, Any]:
    return json.loads(run_module("benchmarks", name, *arguments, "--threads", "1", "--json").stdout)


def fresh(config: LCLConfig) -> as_shipped.ReferenceLCL:
    """The initial weights of the benchmark."""
    model = as_shipped.ReferenceLCL(config)
    model.load_state_dict(build_model(config, seed=0).state_dict())
    return model.to(pick_device())


def test_it_is_the_step_of_the_product(files: list[str]) -> None:
    arguments = (*files, "--batch-size", "3", "--steps", "2", "--numerics", "official")
    packed, usual = run("train", *arguments), run("as-shipped", *arguments)
    assert usual.keys() >= FIELDS
    for loss in ("contrastive_loss", "generation_loss"):
        assert usual[loss] == pytest.approx(packed[loss], rel=1e-4)
    assert usual["images_per_s"] == pytest.approx(IMAGES / usual["seconds_per_step"])
    assert usual["padding_share"] == pytest.approx(1 - TOKENS / (3 * 40))
    assert 0.1 < usual["peak_rss_gib"] < 8


def test_half_precision_gives_nearly_the_same_losses(small_config: LCLConfig) -> None:
    (batch,) = (as_shipped.pad(packed, 40) for packed in to_batches(DOCUMENTS, small_config, 3))
    model = fresh(small_config)
    whole, half = (as_shipped.run_step(model, None, batch, dtype) for dtype in ("fp32", "bf16"))
    assert half == pytest.approx(whole, rel=0.03)
    assert half != whole
    assert model.lm_head[1].weight.dtype == torch.float32


def test_other_numerics_are_refused(files: list[str]) -> None:
    parser = argparse.ArgumentParser()
    as_shipped.add_arguments(parser)
    with pytest.raises(UserError, match="official numerics alone"):
        as_shipped.main(parser.parse_args([*files, "--numerics", "fixed"]))


def test_a_counted_step_moves_the_weights(small_config: LCLConfig) -> None:
    """Each counted step sees the same batch through better weights; the one that warms up changes none."""
    (batch,) = (as_shipped.pad(packed, 40) for packed in to_batches(DOCUMENTS, small_config, 3))
    model = fresh(small_config)
    before = model(batch.images, batch.input_ids).generation_loss.item()
    (_, first), (_, second), (_, third) = as_shipped.run_steps(model, [batch], steps=3, dtype="fp32")
    assert before == first[1] > second[1] > third[1]


def test_rows_are_padded_to_the_whole_context(small_config: LCLConfig) -> None:
    (packed,) = to_batches(DOCUMENTS, small_config, 3)
    padded = as_shipped.pad(packed, small_config.context_length)
    assert padded.input_ids.shape == (3, small_config.context_length)
    assert padded.real == TOKENS
    assert torch.equal(padded.input_ids[padded.input_ids != 0].cpu(), packed.token_ids)


def test_a_failed_process_is_one_sentence(small_config: LCLConfig) -> None:
    too_long = [{"items": [{"ids": [1] * 50}, {"image": 1}]}]
    with pytest.raises(UserError, match="the position table 40"):
        as_shipped.measure(small_config, too_long, batch_size=1, steps=1, dtype="fp32", threads=1)
