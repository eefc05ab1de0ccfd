"""The training benchmark: its form, and the operations that it counts."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import train
from benchmarks.__main__ import main
from benchmarks.documents import documents_of, made_up_documents, to_batches
from lcl_core.encoders.original_checkpoint import config_to_official, read_official_config
from lcl_core.estimate.flops import step_flops
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.objectives.lcl import Lcl
from tests.lcl_core.reference_loss import compute_loss
from tests.module_process import run_module

pytestmark = pytest.mark.extended

DOCUMENTS = [
    {"items": [{"ids": [5, 6, 7]}, {"image": 1}, {"ids": [8]}]},
    {"items": [{"ids": [9, 9]}, {"image": 2}, {"image": 3}]},
]
FIELDS = {
    "seconds_per_step",
    "images_per_s",
    "real_tokens_per_s",
    "peak_rss_gib",
    "contrastive_loss",
    "generation_loss",
    "mfu_useful",
}


@pytest.fixture
def files(small_config: LCLConfig, tmp_path: Path) -> list[str]:
    (tmp_path / "config.json").write_text(json.dumps(config_to_official(small_config)))
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    return ["--config", str(tmp_path / "config.json"), "--documents", str(tmp_path / "docs.jsonl")]


def run(*arguments: str, name: str = "train") -> subprocess.CompletedProcess[str]:
    return run_module("benchmarks", name, *arguments)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_prints_one_object(files: list[str], dtype: str) -> None:
    done = run(*files, "--batch-size", "2", "--steps", "2", "--dtype", dtype, "--threads", "1", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report.keys() >= FIELDS
    assert report["images_per_s"] == pytest.approx(3 / report["seconds_per_step"])
    assert report["real_tokens_per_s"] == pytest.approx((8 + 2) / report["seconds_per_step"])


def test_made_up_documents_have_the_lengths_of_mmc4() -> None:
    documents = made_up_documents(1000, count=3000)
    tokens = [token for document in documents for item in document["items"] for token in item.get("ids", ())]
    images = [item["image"] for document in documents for item in document["items"] if "image" in item]
    assert len(tokens) / 3000 == pytest.approx(425, rel=0.05)
    assert len(images) / 3000 == pytest.approx(3, rel=0.05)
    assert 1 <= min(tokens) < max(tokens) < 1000
    assert len(set(images)) == len(images)
    assert made_up_documents(1000, count=2) == documents[:2]


def test_without_files_it_is_the_authors_model_on_made_up_documents() -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    options = parser.parse_args([])
    config = read_official_config(options.config)
    assert (config.image_size, config.patch_size, config.vision_width, config.text_layers) == (224, 32, 768, 12)
    (first, *rest) = to_batches(documents_of(options.documents, config), config, 4)
    assert len(rest) == 3
    assert first.pixel_values.shape[1:] == (3, 224, 224)


def test_bad_files_are_named_without_a_traceback(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"items": [{"ids": [1]}]}\n{"items": [{}]}\n')
    missing, broken = ["--config", "nowhere.json", *files[2:]], [*files[:3], str(bad)]
    for arguments, place in ((missing, "nowhere.json"), (broken, "bad.jsonl:2:")):
        assert main(["train", *arguments]) == 2
        assert place in capsys.readouterr().err


def test_counted_operations_are_those_of_the_step(small_model: LCLModel, small_config: LCLConfig) -> None:
    (batch,) = to_batches(DOCUMENTS, small_config, 2)
    small_model.eval()  # in training a CPU's products have rows of padding, too
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_loss(Lcl.from_config(small_config), small_model, batch)
    lengths = [3 + 6 + 1 + 2, 2 + 12 + 2]
    counted = step_flops(small_config, lengths, images=3, labels=len(batch.labels)) / 3
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the breakdown is of the CPU's operators")
def test_the_breakdown_leaves_nothing_out(files: list[str]) -> None:
    report = json.loads(run(*files, "--batch-size", "2", "--threads", "1", "--json", name="breakdown").stdout)
    assert sum(report["share"].values()) == pytest.approx(1, abs=0.01)
    assert sum(report["seconds"].values()) == pytest.approx(report["total_seconds"])
    assert all(seconds > 0 for seconds in report["seconds"].values())


def test_objectives_are_counted_over_the_same_documents() -> None:
    report = json.loads(run("--documents", "20", name="objectives").stdout)
    documents, pairs = report["interleaved"]["relative_to_lcl"], report["matched_pairs"]["relative_to_lcl"]
    assert (documents["lcl"], pairs["lcl"]) == (1, 1)
    assert documents.keys() < pairs.keys()
    assert pairs["clip"] < 1 < pairs["coca"] < pairs["blip2"]
