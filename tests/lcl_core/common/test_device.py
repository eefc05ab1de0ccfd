"""Where and in which precision a run computes."""

from contextlib import contextmanager, suppress

import pytest
import torch

from lcl_core.common.device import (
    autocast,
    compute_dtype,
    matmul_error,
    onednn_fp32_matmul,
    pick_device,
    tf32_matmul,
    use_device,
)
from lcl_core.common.errors import UserError
from tests.fake_nvidia_smi import gpu_id

CPU, GPU, OLDER_GPU = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture
def played_gpus(monkeypatch):
    """(has_bf16): GPUs of which these numbers multiply in bf16; the others emulate it."""

    def play(*has_bf16):
        current = [0]

        @contextmanager
        def device(chosen):
            before, current[0] = current[0], chosen.index
            yield
            current[0] = before

        def is_bf16_supported(including_emulation=True):
            return including_emulation or current[0] in has_bf16

        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)

    return play


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [(GPU, "bf16", True), (GPU, "auto", True), (GPU, "fp32", False), (CPU, "bf16", False)],
)
def test_gpus_round_to_tf32_where_training_is_in_bf16(played_gpus, device, precision, expected):
    played_gpus(0)
    settings = torch.backends.cuda.matmul
    assert not settings.allow_tf32
    with suppress(ZeroDivisionError), tf32_matmul(device, precision):
        assert settings.allow_tf32 == expected
        raise ZeroDivisionError
    assert not settings.allow_tf32


def test_products_of_this_machine_are_fp32():
    assert matmul_error() < 1e-6
    with onednn_fp32_matmul():
        assert matmul_error() < 2e-6


def test_operands_rounded_to_bf16_are_found_out(monkeypatch):
    exact = torch.Tensor.__matmul__

    def rounded(a, b):
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
        (OLDER_GPU, "auto", True, torch.float32),
        (OLDER_GPU, "bf16", True, torch.bfloat16),
    ],
)
def test_auto_is_bf16_where_the_hardware_has_it(
    monkeypatch,
    played_gpus,
    device,
    precision,
    cpu_has_bf16,
    expected,
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_bf16)
    played_gpus(0)
    assert compute_dtype(device, precision) == expected


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_autocast_computes_as_said_and_never_in_fp16(precision):
    a = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (a @ a).dtype == compute_dtype(CPU, precision)
        assert torch.get_autocast_dtype("cpu") != torch.float16
    assert (a @ a).dtype == torch.float32


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == CPU


@pytest.mark.parametrize(
    ("cuda", "cause"), [(None, "is built for the CPU"), ("13.0", "the driver is older than CUDA 13.0 needs")]
)
@pytest.mark.parametrize("leased", [{"CUDA_VISIBLE_DEVICES": gpu_id(0)}, {"LCL_POD_GPUS": "1"}])
def test_a_run_with_a_gpu_that_torch_cannot_use_fails_with_the_way_out(monkeypatch, leased, cuda, cause):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in {"LCL_SUPERVISED": "1", **leased}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=cause) as caught:
        pick_device()
    assert caught.value.code == "invalid_value"
    for way_out in ("TORCH_INDEX", "--resource cpu", "LCL_WORKER_OFFERS=cpu"):
        assert way_out in caught.value.message


@pytest.mark.parametrize(("gpu", "precision"), [(True, "none"), (False, "tf32")])
def test_convolutions_of_a_training_in_fp32_are_not_rounded(monkeypatch, gpu, precision):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # PyTorch's default
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    use_device()
    assert torch.backends.cudnn.conv.fp32_precision == precision  # type: ignore[attr-defined]
    assert torch.backends.cudnn.allow_tf32 != gpu, "PyTorch's compiler reads it, and must not fail"
