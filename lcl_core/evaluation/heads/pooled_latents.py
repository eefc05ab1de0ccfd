"""Heads on frozen pooled latents: multinomial logistic regression, and weighted nearest neighbours.

Logistic regression (CLIP, arXiv 2103.00020, appendix A.3): L-BFGS from weights of zero, so that a fit depends on
nothing but its images and its penalty. Nearest neighbours (DINO, arXiv 2104.14294, appendix F; Wu et al., arXiv
1805.01978): cosine similarity s, votes of exp(s / temperature) by k neighbours, every training image compared with
every tested one. n training images, Q tested ones, E dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lcl_core.common.disk_cache import no_progress
from lcl_core.evaluation.features import Heartbeat
from lcl_core.evaluation.heads.linear_probe import ClassPredictions, collect_predictions
from lcl_core.evaluation.metrics import Ints

_BLOCK_NUMBERS = 2**23  # logits of a block
_PASSES = 2  # over the images, in an iteration at most: its line search may take several
_TRAIN_BLOCK, _QUERY_BLOCK = 16_384, 512
_VOTE_NUMBERS = 2**22  # votes of a block of tested images

Latents = NDArray[np.float32]


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted model.

    Attributes:
        weights: [E, C].
        bias: [C].
        losses: penalised loss an image, of each pass over the images.
    """

    weights: Tensor
    bias: Tensor
    losses: list[float]

    def logits(self, features: Tensor) -> Tensor:
        """[B, E] → [B, C]."""
        return torch.addmm(self.bias, features, self.weights)

    def predict(self, features: Tensor, targets: Ints, *, field: str) -> ClassPredictions:
        """Of features [Q, E], whose true classes are ``targets`` [Q]."""
        blocks = features.split(max(1, _BLOCK_NUMBERS // len(self.bias)))
        return collect_predictions((self.logits(block) for block in blocks), targets, field=field)


def fit_logistic_regression(
    features: Tensor,
    targets: Tensor,
    classes: int,
    l2: float,
    *,
    iterations: int = 1000,
    heartbeat: Heartbeat = no_progress,
) -> LogisticRegression:
    """The minimum of the sum of the cross-entropies plus ``l2`` / 2 · ‖weights‖²; in scikit-learn ``C`` is 1 / ``l2``.

    The bias is not penalised, so centring the features, and scaling all by one number, change the way to the minimum
    and not the minimum. The number gives weights and bias like curvature, without which a large penalty ends L-BFGS
    before the bias has moved.

    Args:
        features: [n, E].
        targets: [n] class numbers.
        iterations: of L-BFGS at most.
    """
    count = len(features)
    mean = features.mean(dim=0)
    rows = features - mean
    scale = (float(rows.square().mean()) + classes * l2 / count) ** -0.5
    rows *= scale
    weights = torch.zeros(features.shape[1], classes, dtype=rows.dtype, device=rows.device, requires_grad=True)
    shares = torch.bincount(targets, minlength=classes).to(rows.dtype).clamp_min(0.5) / count
    bias = shares.log().requires_grad_()  # the minimum without features; a class may have no image in a sweep
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=iterations, max_eval=_PASSES * iterations, line_search_fn="strong_wolfe"
    )
    block = max(1, _BLOCK_NUMBERS // classes)
    losses = []

    def penalised_loss() -> float:
        optimizer.zero_grad()
        penalty = l2 * scale**2 / count * weights.square().sum() / 2
        penalty.backward()
        total = penalty.detach().double()
        for part, target in zip(rows.split(block), targets.split(block), strict=True):
            loss = F.cross_entropy(torch.addmm(bias, part, weights), target, reduction="sum") / count
            loss.backward()
            total += loss.detach()
            heartbeat()
        losses.append(float(total))
        return losses[-1]

    optimizer.step(penalised_loss)
    found = scale * weights.detach()
    return LogisticRegression(found, bias.detach() - mean @ found, losses)


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
    heartbeat: Heartbeat = no_progress,
) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar training images of each tested one, the most similar first.

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
            nearest = similarity.topk(min(k, similarity.shape[1]), dim=1)
            merged.append((nearest.values, index.gather(1, nearest.indices)))
            heartbeat()
        best, found = (torch.cat(parts) for parts in zip(*merged, strict=True))
    return best.cpu(), found.cpu()


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
            weights = (near.double() / temperature).softmax(dim=1)
            yield torch.zeros(len(own), classes, dtype=torch.float64).scatter_add_(1, own, weights)

    return collect_predictions(shares(), targets, field=field, probabilities=lambda scores: scores)
