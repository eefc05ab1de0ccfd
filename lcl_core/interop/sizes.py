"""How many numbers each tensor of a safetensors file holds, from its header alone. Knows no torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from lcl_core.errors import UserError

MAX_HEADER = 64 << 20


def numbers_in(weights: Path) -> dict[str, int]:
    """Tensors' names and how many numbers each has.

    Raises: UserError ``encoder_unreadable`` for a file that is no safetensors, or not a whole one.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        tensors = {name: facts for name, facts in header.items() if name != "__metadata__"}
        found = {name: math.prod(int(side) for side in facts["shape"]) for name, facts in tensors.items()}
        end = max((int(facts["data_offsets"][1]) for facts in tensors.values()), default=0)
        if 8 + length + end != weights.stat().st_size:
            raise ValueError("cut short")
    except (OSError, struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"this is not a whole safetensors file ({error})"
        raise UserError(message, code="encoder_unreadable", file=weights) from error
    return found
