"""The first command that a newcomer types."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.extended

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "requirements").mkdir()
    for name in (
        "Makefile",
        "pyproject.toml",
        "requirements/test.lock",
        "requirements/docs.lock",
    ):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder, *arguments):
    kept = {name: os.environ[name] for name in ("PATH",)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, "HOME": str(folder)}, capture_output=True, text=True, check=False
    )


def test_an_unfit_python_is_refused_with_the_way_out(clone):
    done = make(clone, "setup", "PYTHON=/nowhere/python")
    assert done.returncode != 0
    assert "No Python 3.11 or newer with the venv module among: /nowhere/python." in done.stderr
    assert "make PYTHON=/path/to/python" in done.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(("goal", "locks"), [("setup", ["docs"]), ("test", ["test"])])
def test_libraries_are_installed_from_the_lock_with_hashes(clone, goal, locks):
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".made").touch()
    plan = [line for line in make(clone, "-n", goal).stdout.splitlines() if "-m pip" in line]
    assert len(plan) == 2
    assert [name for name in ("test", "docs") if f"requirements/{name}.lock" in plan[0]] == locks
    assert {"--require-hashes", "--no-deps"} <= set(plan[0].split())
    assert "--no-build-isolation" in plan[1].split(), "what builds the project is locked too"


def test_names_in_env_that_compose_ignores_are_printed(clone):
    shutil.copy(ROOT / ".env.example", clone)
    given = (ROOT / ".env.example").read_text(encoding="utf-8")
    given += "LCL_LEASE_SECONDS=600\n  export OMP_NUM_THREADS = 4\nCOMPOSE_PROJECT_NAME=ours\n# LCL_NOTE=a comment\n"
    (clone / ".env").write_text(given, encoding="utf-8")
    done = make(clone, "check-env")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    before = len(given.splitlines())
    (clone / ".env").write_text(given + "LCL_LEASE_SECOND=600\nLCL_UI_TOKEN=x=y\n", encoding="utf-8")
    done = make(clone, "check-env")
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        f".env:{before + 1}: LCL_LEASE_SECOND has no effect; .env.example has the names",
        f".env:{before + 2}: LCL_UI_TOKEN has no effect; .env.example has the names",
    ]
