"""Moving rows of packed sequences: gathers whose backward is a gather too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """``x[index]`` where every row that matters is taken exactly once.

    The general backward of indexing must add up gradients of rows taken several times. Here ``inverse`` names for
    each row of ``x`` the one place it went to, so the backward is a plain gather. Extra places (padding) may repeat
    any row: their gradient is zero, because attention never reads what lies to the right of a document.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _PlaceRows(torch.autograd.Function):
    """The opposite of :class:`_TakeRows`: keep of ``x`` the rows that are not padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(index, keep)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        index, keep = ctx.saved_tensors
        return grad.index_select(0, index) * keep, None, None, None


def take_rows(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Rows ``index`` [P] of ``x`` [T, ...] → [P, ...]; ``inverse`` [T] with ``index[inverse] == arange(T)``."""
    return _TakeRows.apply(x, index, inverse)


def place_rows(x: Tensor, index: Tensor, inverse: Tensor, keep: Tensor) -> Tensor:
    """Undo :func:`take_rows`: [P, ...] → [T, ...]; ``keep`` [P, 1] is 0 at padding."""
    return _PlaceRows.apply(x, index, inverse, keep)
