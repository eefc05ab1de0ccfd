"""Contrastive loss of a batch that is split over several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class ContrastiveSums(NamedTuple):
    """Sums over the rows of this rank.

    Attributes:
        loss: of the symmetric InfoNCE, scalar, fp32.
        correct: images whose own text is the nearest, scalar, fp32, without gradient.
    """

    loss: Tensor
    correct: Tensor


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, counts: Sequence[int] | None = None
) -> ContrastiveSums:
    """Symmetric InfoNCE of this rank's pairs against those of all ranks, summed over this rank's rows.

    With S = exp(logit_scale) I T^T over the pairs of all ranks, the rows' loss is the mean of both cross-entropies
    (lcl-spec section 4); the sum over ranks is M times the loss of the joint batch, and so are its gradients: the
    features of other ranks get theirs.

    Args:
        image_features, text_features: [m, E] L2-normalised, row-aligned; m may differ between ranks and may be 0.
        logit_scale: logarithm of the inverse temperature, scalar.
        counts: pairs of each rank. Known on the host, so that no shape waits for a device. None: this process alone.
    """
    image, text = image_features.float(), text_features.float()
    scale = logit_scale.exp()
    if counts is None or len(counts) == 1:
        return _row_cross_entropies(scale * image @ text.T, scale * text @ image.T, first=0, valid=None)
    capacity = max(counts)
    gathered = _AllGather.apply(torch.stack((_pad_to(image, capacity), _pad_to(text, capacity))))
    images, texts = gathered[:, 0].flatten(0, 1), gathered[:, 1].flatten(0, 1)  # [world * capacity, E]
    valid = torch.arange(capacity) < torch.tensor(counts)[:, None]
    first = dist.get_rank() * capacity
    logits = scale * image @ texts.T, scale * text @ images.T
    return _row_cross_entropies(*logits, first, valid.flatten().to(image.device, non_blocking=True))


def _row_cross_entropies(by_image: Tensor, by_text: Tensor, first: int, valid: Tensor | None) -> ContrastiveSums:
    """Cross-entropies of [m, M] logits whose row i belongs to column ``first + i``."""
    target = torch.arange(first, first + len(by_image), device=by_image.device)
    if valid is not None:
        by_image, by_text = (logits.masked_fill(~valid, float("-inf")) for logits in (by_image, by_text))
    loss = F.cross_entropy(by_image, target, reduction="sum") + F.cross_entropy(by_text, target, reduction="sum")
    if by_image.shape[1] == 0:
        return ContrastiveSums(0.5 * loss, loss.new_zeros(()))
    return ContrastiveSums(0.5 * loss, (by_image.detach().argmax(1) == target).float().sum())


def _pad_to(x: Tensor, rows: int) -> Tensor:
    return torch.cat((x, x.new_zeros(rows - len(x), x.shape[1])))


class _AllGather(torch.autograd.Function):
    """[...] → [world, ...], with gradient to every rank's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(dist.get_world_size(), *x.shape)
        dist.all_gather_into_tensor(out, x.contiguous()[None])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # one collective for all parts
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]
