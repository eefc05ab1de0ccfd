"""Weighted nearest neighbours: classes by the votes of the training images most similar to an image.

DINO's protocol (arXiv 2104.14294, appendix F; Wu et al., arXiv 1805.01978): cosine similarity s, votes of
exp(s / temperature) by k neighbours. Exact: every training image is compared with every tested one, block by block. Q
tested images, n training images, E dimensions, C classes, M images a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcl_core.evaluation.heads.linear_probe import ClassPredictions, collect_predictions
from lcl_core.evaluation.metrics.core import Ints

_TRAIN_BLOCK, _QUERY_BLOCK = 16_384, 512
_VOTE_NUMBERS = 2**22  # votes of a block of tested images
PAIR_COST = 5e-8  # rough cost of a similarity, in embedded images

Latents = NDArray[np.float32]


@torch.inference_mode()
def nearest_neighbours(
    queries: Latents,
    train: Latents,
    rows: Ints,
    k: int,
    *,
    device: torch.device,
    train_block: int = _TRAIN_BLOCK,
    query_block: int = _QUERY_BLOCK,
    on_pairs: Callable[[int], None] = lambda pairs: None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar training images of each tested one, the most similar first; of equals the earlier row.

    Memory is that of the queries, of the result and of one block: ``train`` is read once, in parts.

    Args:
        queries: [Q, E].
        train: latents of a split; may be memory-mapped.
        rows: [n] those of ``train`` that teach, ascending; n is at least k.

    Returns:
        Cosine similarities [Q, k] and indices [Q, k] into ``rows``, on the CPU.
    """
    units = F.normalize(torch.from_numpy(queries).to(device), dim=1)
    best = torch.empty(len(units), 0, device=device)
    found = torch.empty(len(units), 0, dtype=torch.int64, device=device)
    for start in range(0, len(rows), train_block):
        part = torch.from_numpy(train[rows[start : start + train_block]]).to(device)
        columns = F.normalize(part, dim=1).T
        numbers = torch.arange(start, start + len(part), device=device)
        merged = []
        for first in range(0, len(units), query_block):
            block = slice(first, first + query_block)
            similarity = torch.cat([best[block], units[block] @ columns], dim=1)
            index = torch.cat([found[block], numbers.expand(len(similarity), -1)], dim=1)
            kept = _largest(similarity, min(k, similarity.shape[1]))
            merged.append((similarity.gather(1, kept), index.gather(1, kept)))
            on_pairs(len(similarity) * len(part))
        best, found = (torch.cat(parts) for parts in zip(*merged, strict=True))
    order = best.argsort(dim=1, descending=True, stable=True)  # columns ascend by index, so equals keep their order
    return best.gather(1, order).cpu(), found.gather(1, order).cpu()


def _largest(values: Tensor, k: int) -> Tensor:
    """[Q, k] columns of the k largest values of each row, ascending; of equals the first, whatever the device."""
    threshold = values.topk(k, dim=1).values[:, -1:]
    kept, tied = values > threshold, values == threshold
    room = k - kept.sum(dim=1, keepdim=True)
    if bool((tied.sum(dim=1, keepdim=True) > room).any()):
        tied &= tied.cumsum(dim=1) <= room
    return (kept | tied).nonzero()[:, 1].view(len(values), k)


def neighbour_votes(similarity: Tensor, votes: Tensor, classes: int, temperature: float) -> Tensor:
    """Shares of the votes [Q, C] from similarities [Q, k] and the neighbours' classes ``votes`` [Q, k]."""
    weights = (similarity.double() / temperature).softmax(dim=1)
    return torch.zeros(len(votes), classes, dtype=torch.float64).scatter_add_(1, votes, weights)


def predict_by_neighbours(
    similarity: Tensor, votes: Tensor, targets: Ints, classes: int, temperature: float, *, field: str
) -> ClassPredictions:
    """Predictions by the votes of the neighbours [Q, k]. A class without a vote ties with all others without one.

    Args:
        votes: [Q, k] classes of the neighbours.
        targets: [Q] the true classes.
    """
    block = max(1, _VOTE_NUMBERS // classes)

    def shares() -> Iterator[Tensor]:
        for near, own in zip(similarity.split(block), votes.split(block), strict=True):
            yield neighbour_votes(near, own, classes, temperature)

    return collect_predictions(shares(), targets, field=field, probabilities=lambda scores: scores)
