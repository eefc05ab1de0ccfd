"""The first command that a newcomer types."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH",)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, "HOME": str(folder)}, capture_output=True, text=True, check=False
    )


def test_an_unfit_python_is_refused_with_the_way_out(clone: Path) -> None:
    done = make(clone, "setup", "PYTHON=/nowhere/python")
    assert done.returncode != 0
    assert "No Python 3.11 or newer with the venv module among: /nowhere/python." in done.stderr
    assert "make PYTHON=/path/to/python" in done.stderr
    assert not (clone / ".venv").exists()


def test_nothing_is_done_twice(clone: Path) -> None:
    (clone / ".venv").mkdir()
    for stamp in (".made", ".service", ".test"):
        (clone / ".venv" / stamp).touch()
    done = make(clone, "setup")
    assert done.returncode == 0, done.stderr
    assert "install" not in done.stdout
    os.utime(clone / "pyproject.toml")
    assert "pip" in make(clone, "-n", "setup").stdout


@pytest.mark.parametrize(("once", "given"), [("1", True), ("0", False), ("", False)])
def test_once_is_a_switch(clone: Path, once: str, given: bool) -> None:
    plan = make(clone, "-n", "demo", f"ONCE={once}").stdout
    assert "-m deploy.local demo" in plan
    assert ("--once" in plan) is given


def test_continuous_integration_runs_the_same_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "exec make test"
    assert "set -euo pipefail" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
