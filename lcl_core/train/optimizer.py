"""AdamW with the authors' decay groups, frozen parts, rates by step, and the tensors of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lcl_core.model import LCLModel
    from lcl_core.specs.pretrain import ModelPart, OptimizerSpec


_PART_MODULES: dict[ModelPart, str] = {
    "vision": "visual",
    "pooler": "pool_project",
    "text": "text",
    "head": "lm_head",
}  # of LCLModel


def freeze_parts(model: LCLModel, parts: Sequence[ModelPart]) -> None:
    """Exclude the parameters of these parts from training; the parts compute as in evaluation, with their statistics.

    Call before the model is sharded, averaged or optimised.
    """
    for part in parts:
        model.get_submodule(_PART_MODULES[part]).requires_grad_(False).eval()


def build_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.2,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.AdamW:
    """AdamW where every parameter of two or more dimensions is decayed and the others are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def learning_rate(step: int, total_steps: int, spec: OptimizerSpec) -> float:
    """The rate of 0-based ``step``: linear warm-up lr (step + 1) / warm-up, then as ``spec.schedule`` says."""
    if step < spec.warmup_steps:
        return spec.lr * (step + 1) / spec.warmup_steps
    if spec.schedule == "cosine":
        done = (step - spec.warmup_steps) / max(total_steps - spec.warmup_steps, 1)
        return spec.lr * 0.5 * (1 + math.cos(math.pi * done))
    if spec.schedule == "constant_with_decay":  # linearly to 0, which the step after the last would have
        return spec.lr * min(1.0, (total_steps - step) / max(spec.decay_steps, 1))
    return spec.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def random_state(device: torch.device) -> dict[str, str]:
    """torch's generators as JSON: of the CPU and, where ``device`` is a GPU, of that. Each rank has its own."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def restore_random_state(state: Mapping[str, str], device: torch.device) -> None:
    """Restore ``random_state``. A run that moved between CPU and GPU keeps the part that applies."""
    states = {name: torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for name, text in state.items()}
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def training_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The live tensors of ``model`` and ``optimizer``, not copied: writing into them changes the run."""
    return {"model": model.state_dict(), "optimizer": optimizer_tensors(model, optimizer)}


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
                state["step"] = torch.zeros((), device=parameter.device if group["fused"] else None)
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            tensors |= {f"{names[parameter]}.{moment}": state[moment] for moment in _MOMENTS}
    return tensors
