"""Attention over documents packed end to end, by PyTorch's variable-length kernel on GPUs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_HALF = (torch.bfloat16, torch.float16)
# any number of tokens to the left; to the right none, or any number
_CAUSAL, _FULL = (-1, 0), (-1, -1)


def packed_kernel_takes(qkv: Tensor) -> bool:
    """Whether the kernel can compute this: on a GPU, in half precision, with a PyTorch that has it (2.13 on)."""
    return qkv.is_cuda and qkv.dtype in _HALF and _kernel() is not None


def packed_attention(qkv: Tensor, ends: Tensor, longest: int, heads: int, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each document.

    Args:
        qkv: [T, 3D] projections.
        ends: int32 [documents + 1] where documents begin and end.
        longest: tokens of the longest one.

    Returns:
        [T, D].
    """
    kernel = _kernel()
    assert kernel is not None
    q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    # one split: a document's output must not depend on what it is packed with, to the last bit
    window = _CAUSAL if causal else _FULL
    mixed = kernel(q, k, v, ends, ends, longest, longest, window_size=window, num_splits=1)
    return mixed.flatten(1)


@cache
def _kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "num_splits"} <= known.keys() else None
