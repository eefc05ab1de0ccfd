"""The training benchmark: its form, and the operations that it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lcl_core.bench.documents import to_batches
from lcl_core.interop.official import config_to_official
from lcl_core.model import LCLConfig, LCLModel
from lcl_core.model.flops import step_flops
from lcl_core.objectives import compute_loss
from lcl_core.objectives.lcl import LCL

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
    command = [sys.executable, "-m", "lcl_core.bench", name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_prints_one_object(files: list[str], dtype: str) -> None:
    done = run(*files, "--batch-size", "2", "--steps", "2", "--dtype", dtype, "--threads", "1", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert report.keys() >= FIELDS
    assert report["images_per_s"] == pytest.approx(3 / report["seconds_per_step"])
    assert report["real_tokens_per_s"] == pytest.approx((8 + 2) / report["seconds_per_step"])


def test_bad_files_are_named_without_a_traceback(files: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"items": [{"ids": [1]}]}\n{"items": [{}]}\n')
    missing, broken = ["--config", "nowhere.json", *files[2:]], [*files[:3], str(bad)]
    for arguments, place in ((missing, "nowhere.json"), (broken, "bad.jsonl:2:")):
        done = run(*arguments)
        assert done.returncode == 2
        assert place in done.stderr
        assert "Traceback" not in done.stderr


def test_counted_operations_are_those_of_the_step(small_model: LCLModel, small_config: LCLConfig) -> None:
    (batch,) = to_batches(DOCUMENTS, small_config, 2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute_loss(LCL, small_model, batch)
    lengths = [3 + 6 + 1 + 2, 2 + 12 + 2]
    counted = step_flops(small_config, lengths, images=3, labels=len(batch.labels)) / 3
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the breakdown is of the CPU's operators")
def test_the_breakdown_leaves_nothing_out(files: list[str]) -> None:
    report = json.loads(run(*files, "--batch-size", "2", "--threads", "1", "--json", name="breakdown").stdout)
    assert sum(report["share"].values()) == pytest.approx(1, abs=0.01)
    assert sum(report["seconds"].values()) == pytest.approx(report["total_seconds"])
    assert all(seconds > 0 for seconds in report["seconds"].values())
