"""The one training loop of everything that is learnt for an examination. It knows no task.

AdamW, a linear warm-up and then a cosine to zero, clipping, autocast; in full transfer the encoder's layers learn the
faster the deeper they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lcl_core.errors import UserError
from lcl_core.specs import TuningSpec
from lcl_core.train.device import autocast
from lcl_core.transfer.tower import Tower


class Epoch(Protocol):
    """Gives the batches of one pass over the examples; called once a pass, with its number from 0."""

    def __call__(self, number: int, /) -> Iterator[Any]: ...


def tune(
    module: nn.Module,
    batches: Epoch,
    loss: Callable[[Any], Tensor],
    spec: TuningSpec,
    *,
    steps: int,
    field: str,
    tower: Tower | None = None,
    beside: Sequence[tuple[nn.Module, float]] = (),
    precision: str | None = None,
    on_step: Callable[[Any], None] = lambda batch: None,
) -> list[float]:
    """Train ``module``, and the encoder of ``tower`` where one is given; both are left in evaluation mode.

    Everything random is in ``batches``, so equal batches give equal weights.

    Args:
        module: what was added to the encoder; all of its parameters that want gradients are trained.
        batches: gives at least one batch a pass; passes follow each other until ``steps`` are done.
        loss: a batch's loss, a scalar; called under autocast.
        steps: how many; :func:`steps_of` says what a spec asks for.
        field: of the evaluation's spec that holds ``spec``, for messages.
        tower: full transfer: a copy of the encoder; its layers learn at :func:`layer_rates`.
        beside: further modules that learn along, each at its own peak rate.
        precision: in place of the spec's.
        on_step: called with each batch when it is learnt.

    Returns:
        the loss of each step.

    Raises:
        UserError: ``tuning_diverged`` when a loss is no number.
    """
    groups = _all_groups(module, tower, beside, spec)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_share(step, steps, spec.warmup))
    trained = [parameter for group in groups for parameter in group["params"]]
    device = trained[0].device
    modules = [module, *(each for each, _ in beside), *([] if tower is None else [tower.module])]
    losses = []
    for each in modules:
        each.train()
    for batch in _endless(batches, steps):
        with autocast(device, precision or spec.precision):  # type: ignore[arg-type]
            found = loss(batch)
        losses.append(_finite(float(found.detach()), field))
        optimizer.zero_grad()
        found.backward()
        if spec.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        optimizer.step()
        schedule.step()
        on_step(batch)
    for each in modules:
        each.eval()
    return losses


def _all_groups(
    module: nn.Module, tower: Tower | None, beside: Sequence[tuple[nn.Module, float]], spec: TuningSpec
) -> list[dict[str, Any]]:
    groups = parameter_groups(module, spec.lr, spec.weight_decay)
    if tower is not None:
        groups += encoder_groups(tower, spec)
    for each, rate in beside:
        groups += parameter_groups(each, rate, spec.weight_decay)
    return groups


def steps_of(spec: TuningSpec, examples: int) -> int:
    """Optimiser steps: the spec's, or those of its epochs over ``examples``."""
    return spec.steps or spec.epochs * math.ceil(examples / spec.batch_size)


def lr_share(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate in 0-based ``step``: a line up over the share ``warmup``, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and what the module names in its attribute ``undecayed`` do not."""
    spared = getattr(module, "undecayed", ())
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if parameter.ndim < 2 or name in spared]
    decayed = [parameter for name, parameter in trained if parameter.ndim >= 2 and name not in spared]
    return _groups(decayed, plain, lr, weight_decay)


def encoder_groups(tower: Tower, spec: TuningSpec) -> list[dict[str, Any]]:
    """The encoder's layers, each at its own rate."""
    layers = tower.layers()
    groups: list[dict[str, Any]] = []
    for parameters, rate in zip(layers, layer_rates(len(layers), spec.encoder_lr, spec.layer_decay), strict=True):
        decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
        plain = [parameter for parameter in parameters if parameter.ndim < 2]
        groups += _groups(decayed, plain, rate, spec.weight_decay)
    return groups


def layer_rates(layers: int, lr: float, decay: float) -> list[float]:
    """Peak rate of each layer, the input's first: ``lr`` for the last, and ``decay`` times as much a step down."""
    return [lr * decay ** (layers - 1 - depth) for depth in range(layers)]


def _groups(
    decayed: Sequence[nn.Parameter], plain: Sequence[nn.Parameter], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    both = ((decayed, weight_decay), (plain, 0.0))
    return [{"params": list(part), "lr": lr, "weight_decay": decay} for part, decay in both if part]


def _endless(batches: Epoch, steps: int) -> Iterator[Any]:
    """Pass after pass, ``steps`` batches in all."""
    done = number = 0
    while done < steps:
        for batch in batches(number):
            yield batch
            done += 1
            if done == steps:
                return
        number += 1


def _finite(loss: float, field: str) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is no longer a number; lower {field}.lr, or set {field}.max_grad_norm",
            code="tuning_diverged", field=f"{field}.lr",
        )  # fmt: skip
    return loss
