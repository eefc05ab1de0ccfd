"""The bench of a second head runs on any encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lcl_core.bench.__main__ import main
from lcl_core.data import train_bpe
from lcl_core.model import LCLModel, LCLProcessor


def test_it_prints_seconds_and_shares(
    small_model: LCLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model.save_pretrained(tmp_path)
    LCLProcessor(train_bpe(["a few words"], 300), small_model.config.image_size).save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "heads", "--encoder", str(tmp_path), "--epochs", "1", "--heads", "3"])
    assert main() == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["later_s"]) == len(report["later_of_first"]) == 2
    assert report["later_of_first"][0] == pytest.approx(report["later_s"][0] / report["first_s"], abs=0.05)
    assert report["pictures_asked"] == 228
