"""A network without memory: is it as large as the weights that are there, before anything is allocated for it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from lcl_core.interop.origins import Origin
from lcl_core.interop.reading import all_filled, unreadable
from lcl_core.interop.sizes import TensorHeader, header_of

MAX_BUFFERS = 1 << 26  # numbers that a network makes up beside its weights: tables of positions, masks
_MADE_UP = "pooler."  # a part that transformers adds where the weights have none, and that is taken away again


def check_build(directory: Path, origin: Origin, build: Callable[[], nn.Module]) -> None:
    """Build a network on torch's meta device, and hold its shapes against the headers of the weights.

    Raises: UserError ``encoder_unreadable`` when a tensor has another shape, or the network more numbers than the
        weights; whatever ``build`` raises.
    """
    with torch.device("meta"):
        network = build()
    header: dict[str, TensorHeader] = {}
    for name in origin.weights:
        header |= header_of(directory / name)
    prefix = f"{getattr(network, 'base_model_prefix', '') or 'model'}."
    wanted, missing = 0, []
    for name, parameter in network.named_parameters():
        found = header.get(name) or header.get(prefix + name) or header.get(name.removeprefix(prefix))
        if found is not None and found.shape != tuple(parameter.shape):
            reason = f"the configuration makes {name} {list(parameter.shape)}, in the weights it is {list(found.shape)}"
            raise unreadable(directory, reason)
        if found is None and _MADE_UP in name:
            continue
        wanted += parameter.numel()
        missing += [name] if found is None else []
    there = sum(tensor.numbers for tensor in header.values())
    if wanted > there:
        all_filled(directory, missing)
        reason = f"the configuration makes a network of {wanted:,} numbers, and the weights hold {there:,}"
        raise unreadable(directory, reason)
    if (buffers := sum(buffer.numel() for buffer in network.buffers())) > MAX_BUFFERS:
        raise unreadable(directory, f"the configuration makes tables of {buffers:,} numbers")
