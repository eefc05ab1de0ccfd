"""An exponential moving average of the weights: smoother weights for the exported encoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lcl_core.common.device import local_part


def ema_decay(step: int, decay: float) -> float:
    """The share of the old average at 0-based ``step``: (1 + step) / (10 + step) until that reaches ``decay``.

    So the random initial weights are soon forgotten. The ramp is that of TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """Averages the trainable parameters of a model, and its running statistics, in float32; sharded ones stay sharded.

    Statistics are averaged like the weights, or they would belong to other weights. The average starts from the current
    weights and has no state except ``tensors``: the decay follows from the step.

    Args:
        model: its parameters and buffers must not be replaced afterwards; shard it before.
        decay: share of the old average in each step, in [0, 1).
        warmup: start with a smaller decay, ``ema_decay``.
    Attributes:
        tensors: the averages by name of the parameter or buffer, for checkpoints.
        statistics: names of the buffers among them, which checkpoints of older versions lack.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        saved = model.state_dict().keys()  # without buffers that are computed from the configuration
        buffers = {name: b for name, b in model.named_buffers() if name in saved and b.is_floating_point()}
        self.statistics = frozenset(buffers)
        self._live: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad} | buffers
        self.tensors: dict[str, Tensor] = {
            name: live.detach().to(torch.float32, copy=True) for name, live in self._live.items()
        }

    @torch.no_grad()
    def restart(self, names: Collection[str] | None = None) -> None:
        """Start again from the current values; ``names``: of these alone."""
        for name in self._live if names is None else names:
            local_part(self.tensors[name]).copy_(local_part(self._live[name]))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after the optimiser's 0-based ``step``."""
        decay = ema_decay(step, self.decay) if self.warmup else self.decay
        weights = [local_part(live).float() for live in self._live.values()]
        torch._foreach_lerp_([local_part(tensor) for tensor in self.tensors.values()], weights, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Context in which the model has the averages; its own values are restored bitwise afterwards."""
        own = {name: live.detach().clone() for name, live in self._live.items()}
        self._set(self.tensors)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, live in self._live.items():
            local_part(live).copy_(local_part(tensors[name]))
