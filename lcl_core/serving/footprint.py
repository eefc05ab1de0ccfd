"""How much memory an encoder takes, known before it is loaded: from the headers of its weights."""

from __future__ import annotations

from pathlib import Path

from lcl_core.errors import UserError
from lcl_core.interop.origins import recognise
from lcl_core.interop.sizes import numbers_in
from lcl_core.serving.rounding import is_rounded
from lcl_core.serving.session import pick_device
from lcl_core.train.device import Precision, computes_in

FP32, ROUNDED = 4, 2  # bytes a number: every encoder is kept in fp32, whatever its file is in; its copy in bf16


def memory_of(directory: Path, device: str = "auto", precision: Precision = "fp32") -> int:
    """Bytes of the weights as ``open_session`` keeps them; what a batch takes comes on top.

    0 for what cannot be loaded: its loader says best why.

    Raises:
        UserError: ``bad_device``.
    """
    try:
        origin = recognise(directory)
        names, ours = origin.weights, origin.kind == "lcl"
    except UserError:
        names, ours = tuple(sorted(path.name for path in directory.glob("*.safetensors"))), True
    halves = ours and _halves(device, precision)
    try:
        return sum(_bytes(numbers_in(directory / name), halves) for name in names)
    except UserError:
        return 0


def _halves(device: str, precision: Precision) -> bool:
    import torch

    return computes_in(pick_device(device), precision) == torch.bfloat16


def _bytes(numbers: dict[str, int], halves: bool) -> int:
    return sum(count * (FP32 + ROUNDED if halves and is_rounded(name) else FP32) for name, count in numbers.items())
