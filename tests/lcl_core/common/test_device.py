"""Where and in which precision a run computes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from lcl_core.common import device as devices
from lcl_core.common.device import (
    autocast,
    compute_dtype,
    matmul_error,
    onednn_fp32_matmul,
    pick_device,
    tf32_matmul,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def setting() -> str:
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("error", "taken"), [(1e-7, True), (1e-3, False), (float("nan"), False)])
def test_only_products_as_exact_as_fp32_are_taken(monkeypatch: pytest.MonkeyPatch, error: float, taken: bool) -> None:
    before, measured_with = setting(), []

    def measured() -> float:
        measured_with.append(setting())
        return error

    monkeypatch.setattr(devices, "matmul_error", measured)
    with onednn_fp32_matmul() as used:
        assert used == taken
        assert (setting() == "bf16") == taken
    assert measured_with == ["bf16"]
    assert setting() == before


def test_the_setting_comes_back_after_a_failure() -> None:
    before = setting()
    with pytest.raises(ZeroDivisionError), onednn_fp32_matmul():
        raise ZeroDivisionError
    assert setting() == before


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [(GPU, "bf16", True), (GPU, "auto", True), (GPU, "fp32", False), (CPU, "bf16", False)],
)
def test_gpus_round_to_tf32_where_training_is_in_bf16(device: torch.device, precision: Any, expected: bool) -> None:
    settings = torch.backends.cuda.matmul
    assert not settings.allow_tf32
    with suppress(ZeroDivisionError), tf32_matmul(device, precision):
        assert settings.allow_tf32 == expected
        raise ZeroDivisionError
    assert not settings.allow_tf32


def test_a_setting_of_the_user_stays() -> None:
    settings = torch.backends.cuda.matmul
    settings.allow_tf32 = True
    try:
        with tf32_matmul(GPU, "bf16"):
            assert settings.allow_tf32
        assert settings.allow_tf32
    finally:
        settings.allow_tf32 = False


def test_products_of_this_machine_are_fp32() -> None:
    assert matmul_error() < 1e-6
    with onednn_fp32_matmul():
        assert matmul_error() < 2e-6


def test_operands_rounded_to_bf16_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return exact(a, b) if a.dtype == torch.float64 else exact(a.bfloat16().float(), b.bfloat16().float())

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert matmul_error() > 1e-3
    with onednn_fp32_matmul() as used:
        assert not used


@pytest.mark.parametrize(
    ("device", "precision", "cpu_has_bf16", "expected"),
    [
        (CPU, "fp32", True, torch.float32),
        (CPU, "auto", True, torch.bfloat16),
        (CPU, "auto", False, torch.float32),
        (CPU, "bf16", False, torch.bfloat16),
        (GPU, "auto", False, torch.bfloat16),
        (GPU, "fp32", True, torch.float32),
    ],
)
def test_auto_is_bf16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    precision: devices.Precision,
    cpu_has_bf16: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_bf16)
    assert compute_dtype(device, precision) == expected


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_autocast_computes_as_said_and_never_in_fp16(precision: devices.Precision) -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (a @ a).dtype == compute_dtype(CPU, precision)
        assert torch.get_autocast_dtype("cpu") != torch.float16
    assert (a @ a).dtype == torch.float32


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == CPU
