"""What a worker says it computes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.devices import device_names


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a program called nvidia-smi, and no other."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def test_without_a_gpu_it_is_the_processor(smi: Path) -> None:
    (name,) = device_names()
    assert name.startswith("cpu (")


def test_gpus_are_named(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3'\necho 'NVIDIA L4'\n")
    smi.chmod(0o755)
    assert device_names() == ("NVIDIA H100 80GB HBM3", "NVIDIA L4")


def test_a_driver_that_fails_is_no_gpu(smi: Path) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    assert device_names()[0].startswith("cpu (")
