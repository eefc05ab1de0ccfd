"""The GPU check-up on a CPU: every part runs, and what fails in one stays there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.__main__ import main
from benchmarks.gpu_checks import PARTS, CheckUp

pytestmark = pytest.mark.extended

QUICK = ["gpu", "--device", "cpu", "--quick"]


def test_every_part_runs(tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    command = [sys.executable, "-m", "benchmarks", *QUICK, "--seconds", "550", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report == json.loads((tmp_path / "out.json").read_text())
    assert report["parts"].keys() == PARTS.keys()
    assert report["parts"]["resume"]["error"] == 0  # a CPU computes the same bits
    assert {"generation_loss", "contrastive_loss", "grad_norm"} <= set(report["parts"]["resume"]["compared"])
    assert {row["compiled"] for row in report["parts"]["blocks"]["blocks"]} == {False, True}
    page = (tmp_path / "out.md").read_text()
    for name in PARTS:
        assert f"## {name}: passed" in page
    assert "| causal | 96 | blockwise | True |" in page


def options(**changes: Any) -> Namespace:
    return Namespace(**{"device": "cpu", "quick": True, "seconds": 60.0, **changes})


@pytest.mark.parametrize(
    ("part", "seconds", "error"),
    [
        (lambda up: {"passed": True, "figure": 1.5}, 60.0, None),
        (lambda up: torch.empty(1).view(2), 60.0, "RuntimeError: shape '[2]' is invalid"),
        (lambda up: os.kill(os.getpid(), signal.SIGKILL), 60.0, "its process ended with status -9"),
        (lambda up: signal.pause(), 0.1, "it had not ended after the 60 seconds"),
    ],
)
def test_what_fails_in_a_part_is_its_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: Any, seconds: float, error: str | None
) -> None:
    monkeypatch.setitem(PARTS, "objectives", part)
    outcome = gpu._run("objectives", options(), tmp_path / "part", seconds)
    assert outcome["passed"] == (error is None)
    assert outcome.get("error", "").startswith(error or "")
    assert ("figure" in outcome) == (error is None)


def test_the_exit_status_says_whether_all_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setitem(PARTS, "attention", lambda up: {"passed": True})
    monkeypatch.setitem(PARTS, "speed", lambda up: {"passed": False, "models": {"tiny": {"documents": 0}}})
    assert main([*QUICK, "--parts", "attention"]) == 0
    assert main([*QUICK, "--parts", "attention", "speed"]) == 1
    capsys.readouterr()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["gpu"]) == 2
    assert "there is no GPU; --device cpu --quick" in capsys.readouterr().err


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = gpu_checks._losses_and_gradient

    def wrong(name: str, device: torch.device, precision: Any) -> Any:
        losses, gradient = measured(name, device, precision)
        if precision == "bf16" and name == "clip":
            gradient[: len(gradient) // 2] *= -1
        return losses, gradient

    monkeypatch.setattr(gpu_checks, "_losses_and_gradient", wrong)
    monkeypatch.setattr(gpu_checks, "OBJECTIVES", ("lcl", "clip"))
    outcome = PARTS["objectives"](CheckUp(torch.device("cpu"), True, tmp_path))
    assert {name: row["passed"] for name, row in outcome["objectives"].items()} == {"lcl": True, "clip": False}
    assert not outcome["passed"]


def test_attention_that_depends_on_its_neighbours_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attend = gpu_checks.attention.attend

    def leaking(qkv: torch.Tensor, heads: int, layout: Any, length: int) -> torch.Tensor:
        out = attend(qkv, heads, layout, length)
        return out + 1e-6 * len(layout.groups)

    monkeypatch.setattr(gpu_checks.attention, "attend", leaking)
    outcome = PARTS["attention"](CheckUp(torch.device("cpu"), True, tmp_path))
    assert not any(row["equal_alone_and_packed"] for row in outcome["attention"])
    assert not outcome["passed"]


def test_the_largest_batch_that_fits_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def measure(config: Any, batches: Any, *_: Any) -> Any:
        tried.append(len(batches[0].lengths))
        if tried[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [0.5, 0.25], None

    monkeypatch.setattr(gpu_checks, "measure", measure)
    row = gpu_checks._speed_row(CheckUp(torch.device("cpu"), True, tmp_path), gpu_checks.SMALL, 1e12)
    assert tried == [2, 1]
    assert (row["documents"], row["seconds"]) == (1, 0.25)
