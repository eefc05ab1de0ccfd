"""The benchmark of captions, on a small model: both ways write the same, and the figures fit together."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import captions
from benchmarks.train import DEFAULT_CONFIG
from lcl_core.common.errors import UserError

pytestmark = pytest.mark.extended


@pytest.fixture
def small(tmp_path: Path) -> Path:
    config = json.loads(DEFAULT_CONFIG.read_text())
    config["embed_dim"] = 64
    config["vision_cfg"].update(layers=1, width=64)
    config["text_cfg"].update(layers=2, width=64, heads=2)
    config["pool_project_cfg"].update(input_dim=64, output_dim=64, attn_num_heads=2)
    path = tmp_path / "small.json"
    path.write_text(json.dumps(config))
    return path


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    captions.add_arguments(parser)
    return parser.parse_args(["--threads", "1", "--repeats", "1", *arguments])


def test_both_ways_write_the_same(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions.main(options("--config", str(small), "--images", "2", "--tokens", "12"))
    report = json.loads(capsys.readouterr().out)
    assert report["same_tokens"] == 1
    assert report["ratio"] == pytest.approx(report["tokens_per_s"] / report["tokens_per_s_without_cache"], rel=0.02)
    assert (report["images"], report["tokens"]) == (2, 12)


def test_more_than_the_context_holds_is_refused(small: Path) -> None:
    with pytest.raises(UserError, match="room"):
        captions.main(options("--config", str(small), "--tokens", "5000"))
    with pytest.raises(UserError, match="positive"):
        captions.main(options("--config", str(small), "--images", "0"))
