"""Names, types and shapes of the tensors of a safetensors file, from its header alone. Knows no torch."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from lcl_core.common.errors import UserError
from lcl_core.common.files import parse_strict_json

MAX_HEADER = 4 << 20  # bytes: some 30,000 tensors
MAX_TENSORS = 50_000
MAX_DIMS = 8
MAX_DIM = 1 << 48
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
_ENTRY = {"dtype", "shape", "data_offsets"}


class TensorHeader(NamedTuple):
    """One tensor as the header declares it; ``begin`` and ``end``: bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def read_header(weights: Path) -> dict[str, TensorHeader]:
    """Every tensor of the file, by name.

    The header is believed only where it is consistent: known types, whole sides below 2^48, as many bytes as the shape
    takes, tensors that lie one behind the other and fill the file.

    Raises: UserError ``encoder_unreadable`` for a file that is no safetensors, or not a whole one.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError(f"a header of {length:,} bytes; at most {MAX_HEADER:,} are read")
            header = parse_strict_json(file.read(length).decode("utf-8"))
        size = weights.stat().st_size - 8 - length
        return _tensors(header, size)
    except (OSError, struct.error, ValueError, RecursionError) as error:
        reason = "its header is nested too deeply" if isinstance(error, RecursionError) else error
        message = f"this is not a whole safetensors file ({reason})"
        raise UserError(message, code="encoder_unreadable", file=weights) from error


def tensor_sizes(weights: Path) -> dict[str, int]:
    """Tensors' names and how many numbers each has. Raises: as :func:`header_of`."""
    return {name: tensor.numbers for name, tensor in read_header(weights).items()}


def _tensors(header: Any, size: int) -> dict[str, TensorHeader]:
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    if not isinstance(header.pop("__metadata__", {}), dict):
        raise ValueError("the header's __metadata__ is no JSON object")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header):,} tensors; at most {MAX_TENSORS:,} are read")
    found = {name: _tensor(name, entry) for name, entry in header.items()}
    at = 0
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise ValueError(f"tensor {name[:200]!r} begins at byte {tensor.begin}, not at {at}, where the last ends")
        at = tensor.end
    if at != size:
        raise ValueError(f"cut short, or too long: the tensors have {at} bytes, the file has {size} for them")
    return found


def _tensor(name: str, entry: Any) -> TensorHeader:
    def wrong(reason: str) -> ValueError:
        return ValueError(f"tensor {name[:200]!r} {reason}")

    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise wrong(f"is not described by {', '.join(sorted(_ENTRY))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise wrong(f"is of an unknown type {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_size(side) for side in shape):
        raise wrong(f"has no shape of at most {MAX_DIMS} whole sides from 0 to 2^48")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(each) for each in offsets):
        raise wrong("has no data_offsets of two whole numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * BYTES[dtype]:
        raise wrong(f"of shape {shape} in {dtype} does not take the {end - begin} bytes of its data_offsets")
    return TensorHeader(dtype, tuple(shape), begin, end)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_DIM  # a bool is an int, too
