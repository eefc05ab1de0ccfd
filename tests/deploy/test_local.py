"""The launcher tells of wrong settings in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import main


def test_a_data_root_that_opens_the_home_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LCL_DATA_ROOTS", str(tmp_path))
    assert main(["up", "--home", str(tmp_path / "home")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: LCL_DATA_ROOTS: {tmp_path} opens LCL_HOME")
    assert len(said.splitlines()) == 1


def test_a_setting_of_the_wrong_kind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LCL_LEASE_SECONDS", "soon")
    assert main(["up", "--home", str(tmp_path / "home")]) == 1
    assert capsys.readouterr().err.startswith("error: LCL_LEASE_SECONDS: Input should be a valid number")
