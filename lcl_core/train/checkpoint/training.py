"""The tensors of a training run by group: the same mapping is saved and filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lcl_core.train.ema import Ema

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None = None
) -> dict[str, dict[str, Tensor]]:
    """The live tensors of ``model``, ``optimizer`` and ``ema``, not copied.

    To write into them is to change the run.
    """
    groups = {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer)}
    if ema is not None:
        groups["ema"] = ema.tensors
    return groups


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts as ``PARAMETER.MOMENT``.

    A parameter that has not been stepped gets the zeros with which its first step would begin, so that the names
    are the same before the first step and after any.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not (state := optimizer.state[parameter]):
                state |= _first_state(parameter, fused=bool(group["fused"]))
            tensors |= {f"{names[parameter]}.{moment}": state[moment] for moment in _MOMENTS}
    return tensors


def _first_state(parameter: Tensor, fused: bool) -> dict[str, Tensor]:
    return {
        "step": torch.zeros((), device=parameter.device if fused else None),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
