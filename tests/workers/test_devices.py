"""What a worker says it computes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.devices import detect_devices, gpu_usage


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a program called nvidia-smi, and no other."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def test_without_a_gpu_it_is_the_processor(smi: Path) -> None:
    (name,), offers = detect_devices()
    assert name.startswith("cpu (")
    assert offers == ("cpu",)


def test_gpus_are_named(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3'\necho 'NVIDIA L4'\n")
    smi.chmod(0o755)
    assert detect_devices() == (("NVIDIA H100 80GB HBM3", "NVIDIA L4"), ("cpu", "gpu"))


def test_a_driver_that_fails_is_no_gpu(smi: Path) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    (name,), offers = detect_devices()
    assert name.startswith("cpu (")
    assert offers == ("cpu",)


def test_what_gpus_do_is_told_in_bytes_and_shares(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 37, 1024, 23034'\necho 'NVIDIA A100 MIG 1g.5gb, [N/A], 3, 4864'\n")
    smi.chmod(0o755)
    busy, part = gpu_usage()
    assert busy == {"name": "NVIDIA L4", "utilization": 0.37, "memory_used": 2**30, "memory_total": 23034 * 2**20}
    assert part["utilization"] is None
    assert part["memory_used"] == 3 * 2**20


@pytest.mark.parametrize("said", ["exit 9", "echo 'No devices were found'", "true"])
def test_a_driver_that_says_nothing_useful_tells_of_no_gpu(smi: Path, said: str) -> None:
    smi.write_text(f"#!/bin/sh\n{said}\n")
    smi.chmod(0o755)
    assert gpu_usage() == []
