"""An exponential moving average of the parameters: smoother weights for the exported encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lcl_core.common.device import local_part


def ema_decay(step: int, decay: float) -> float:
    """The share of the old average at 0-based ``step``: (1 + step) / (10 + step) until that reaches ``decay``.

    This soon forgets the random first weights. The ramp is TensorFlow's ``ExponentialMovingAverage``'s.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """Averages the trainable parameters of a model in float32; sharded ones stay sharded.

    It begins with the present weights and has no state but ``tensors``: the decay follows from the step.

    Args:
        model: its parameters must not be replaced afterwards; shard it before.
        decay: share of the old average in each step, in [0, 1).
        warmup: begin with a smaller decay, ``ema_decay``.
    Attributes:
        tensors: the averages by parameter name, for checkpoints.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {
            name: parameter.detach().to(torch.float32, copy=True) for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again with the present weights."""
        for name, parameter in self._parameters.items():
            local_part(self.tensors[name]).copy_(local_part(parameter))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after the optimiser's 0-based ``step``."""
        decay = ema_decay(step, self.decay) if self.warmup else self.decay
        weights = [local_part(parameter).float() for parameter in self._parameters.values()]
        torch._foreach_lerp_([local_part(tensor) for tensor in self.tensors.values()], weights, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Context in which the model has the averages as weights; its own are restored bitwise afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._set(self.tensors)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            local_part(parameter).copy_(local_part(tensors[name]))
