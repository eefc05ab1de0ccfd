"""The command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.dataset_builder.__main__ import main
from lcl_core.dataset_builder.sources import SOURCES

ROOT = Path(__file__).parents[3]


def test_the_list_names_every_source_its_licences_and_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    reported = capsys.readouterr().out
    for source in SOURCES.values():
        assert source.about in reported
        assert all(package.version in reported for package in source.packages)
        assert all(licence in reported for licence in source.licences)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "emojis"), "choose from emoji"),
        (("--only", "gimp"), "gimp-help-en_3.0.0-4_all.deb"),
        (("--only", "gimp", "--licence", "permissive"), "permissive"),
        (("--tiny",), "--fetch"),
        (("--side", "0"), "at least 16 pixels"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    where = ("--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"))
    assert main(["build", *where, *arguments]) == 1
    reported = capsys.readouterr().err
    assert reported.startswith("error: ")
    assert words in reported
    assert reported.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [(), ("--tiny",)])
def test_a_place_that_cannot_be_written_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    assert main(["build", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "file" / "out"), *arguments]) == 1
    reported = capsys.readouterr().err
    assert reported.startswith("error: ")
    assert "cannot be read or written" in reported
    assert reported.count("\n") == 1


def test_it_starts_without_what_only_training_or_the_service_needs() -> None:
    code = "import sys, lcl_core.dataset_builder.__main__; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded
    for name in ("torch", "transformers", "lxml", "resvg_py", "sqlalchemy", "fastapi", "httpx"):
        assert f"'{name}'" not in loaded
