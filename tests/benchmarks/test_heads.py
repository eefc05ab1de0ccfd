"""The bench of a second head runs on any encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.api.sample_assets import save_encoder

pytestmark = pytest.mark.extended


def test_it_prints_seconds_and_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    monkeypatch.setattr(sys, "argv", ["bench", "heads", "--encoder", str(encoder), "--epochs", "1", "--heads", "3"])
    assert main() == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["later_s"]) == len(report["later_of_first"]) == 2
    assert report["later_of_first"][0] == pytest.approx(report["later_s"][0] / report["first_s"], abs=0.05)
    assert report["pictures_asked"] == 228
