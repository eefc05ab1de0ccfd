"""Classifiers on an encoder: an attentive probe, logistic regression, nearest neighbours.

The attentive probe pools patch features by attention before a linear layer (paper, transfer head (a)); it is trained on
frozen features or together with a copy of the encoder. The others read frozen pooled latents. Logistic regression
(CLIP, arXiv 2103.00020, appendix A.3): L-BFGS from weights of zero, so that a fit depends on nothing but its images and
its penalty. Nearest neighbours (DINO, arXiv 2104.14294, appendix F; Wu et al., arXiv 1805.01978): votes of
exp(cosine similarity / .07) by k neighbours, every training image compared with every tested one.

n training images, Q tested ones, C classes, E dimensions of pooled latents; N patches of width W an image, h heads of
width d = W / h, B images a batch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.evaluation.features import Heartbeat
from lcl_core.evaluation.metrics import Ints, class_ranks
from lcl_core.evaluation.results import IMAGE_TO_CLASS
from lcl_core.evaluation.tasks.base import EvalContext, LabeledImages
from lcl_core.evaluation.training import FeatureSource, train_head
from lcl_core.specs.evaluate import ClassificationSpec

TOP_K = 5
NEIGHBOUR_TEMPERATURE = 0.07  # DINO's
_HEAD_WIDTH = 64
_BLOCK_NUMBERS = 2**23  # logits of a block
_PASSES = 2  # over the images, in an iteration at most: its line search may take several
_QUERY_BLOCK = 64  # tested images that are compared with all training images at once
_VOTE_NUMBERS = 2**22  # votes of a block of tested images


# ---- predictions


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions for Q images.

    Attributes:
        rank: [Q] of the true class; ties count against it.
        top: [Q, ≤TOP_K] classes, the likeliest first.
        probability: [Q] of the true class.
    """

    rank: Ints
    top: Ints
    probability: NDArray[np.float32]


@torch.inference_mode()
def collect_predictions(
    logits: Iterable[Tensor],
    classes: Ints,
    *,
    field: str,
    probabilities: Callable[[Tensor], Tensor] = partial(torch.softmax, dim=1),
) -> ClassPredictions:
    """Ranks, top classes and probabilities from logits, or from other scores.

    Args:
        logits: parts [B, C], Q rows in all, in the order of ``classes``; computed lazily, without gradients.
        classes: [Q] the true classes.
        probabilities: scores [B, C] → probabilities [B, C].
    """
    ranks, tops, shares = [], [], []
    done = 0
    for part in logits:
        scores = part.float().cpu()
        true = classes[done : done + len(scores)]
        done += len(scores)
        if not torch.isfinite(scores).all():
            raise UserError(f"the head gives NaN; lower {field}.lr", code="diverged", field=f"{field}.lr")
        ranks.append(class_ranks(scores.numpy(), true))
        tops.append(scores.topk(min(TOP_K, scores.shape[1])).indices.numpy())
        shares.append(probabilities(scores).gather(1, torch.from_numpy(true)[:, None])[:, 0].numpy())
    return ClassPredictions(np.concatenate(ranks), np.concatenate(tops), np.concatenate(shares))


def store_predictions(
    context: EvalContext, test: LabeledImages, predictions: ClassPredictions, *, facts: dict[str, Any], **about: Any
) -> None:
    """Store predicted classes; ``facts`` and ``about`` as of a prediction file."""
    images = [test.split.images[row] for row in test.rows]
    samples = (
        {
            "query": image.name,
            **image.group(test.label),
            "label": test.names[true],
            "rank": int(rank),
            "right": 1,
            "top": [test.names[each] for each in top],
            "probability": round(float(probability), 5),
        }
        for image, true, rank, top, probability in zip(
            images, test.classes, predictions.rank, predictions.top, predictions.probability, strict=True
        )
    )
    facts = {"candidates": len(test.names), "left_out": test.left_out, **facts}
    context.store(samples, split=test.split.split, kind="ranks", part=IMAGE_TO_CLASS, facts=facts, **about)


# ---- attentive probe


class AttentiveProbe(nn.Module):
    """Layer norm → cross-attention of one learned query → output projection → layer norm → linear.

    One query makes attention cheap: q·(K x) = (Kᵀ q)·x, and mixing before projecting equals projecting before mixing,
    so keys and values of the N patches are never formed (the same function, N times less work). The input norm's scale
    and shift would fold into K and V, so it has none.
    """

    undecayed = ("query",)

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key = nn.Parameter(torch.empty(heads, width // heads, width))
        self.value = nn.Parameter(torch.empty(heads, width // heads, width))
        self.out = skip_init(nn.Linear, width, width)
        self.norm = nn.LayerNorm(width)
        self.head = skip_init(nn.Linear, width, classes)
        with torch.no_grad():
            self.query.normal_(0, 1, generator=generator)
            for weight in (self.key, self.value, self.out.weight):
                weight.normal_(0, width**-0.5, generator=generator)
            self.head.weight.normal_(0, 0.01, generator=generator)
            self.out.bias.zero_()
            self.head.bias.zero_()

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, W] → logits [B, C]."""
        x = F.layer_norm(patches, patches.shape[-1:])
        keyed_query = torch.einsum("hd,hdw->wh", self.query, self.key) / math.sqrt(self.query.shape[1])
        weights = (x @ keyed_query).softmax(dim=1)
        mixed = weights.transpose(1, 2) @ x  # [B, h, W]
        values = torch.einsum("bhw,hdw->bhd", mixed, self.value).flatten(1)
        return self.head(self.norm(self.out(values)))


def fit_probe(
    source: FeatureSource, train: LabeledImages, spec: ClassificationSpec, field: str
) -> tuple[AttentiveProbe, list[float]]:
    """Cross-entropy over the classes; and the loss of each step."""
    batches = source.batches(train.split)
    generator = torch.Generator().manual_seed(source.context.spec.seed)
    probe = AttentiveProbe(source.width, len(train.names), generator).to(source.device)
    targets = torch.from_numpy(train.classes).to(source.device)

    def order(epoch: int) -> Sequence[Tensor]:
        return torch.randperm(len(train), generator=generator).split(spec.batch_size)

    def load(picks: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        return picks, batches.load(train.rows[picks.numpy()], rng)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        picks, loaded = batch
        logits = probe(batches.patches(loaded))
        return F.cross_entropy(logits, targets[picks.to(source.device)], label_smoothing=spec.label_smoothing)

    losses = train_head(
        source, probe, order, load, loss, spec, len(train), field, precision=source.precision, threads=batches.threads
    )
    return probe, losses


def predict_by_probe(source: FeatureSource, probe: AttentiveProbe, test: LabeledImages, field: str) -> ClassPredictions:
    """Predictions of a probe on the features of ``source``."""
    logits = map(probe, source.batches(test.split).test_batches(test.rows))
    return collect_predictions(logits, test.classes, field=field)


# ---- heads on pooled latents


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
    queries: NDArray[np.float32],
    train: NDArray[np.float32],
    k: int,
    *,
    device: torch.device,
    block: int = _QUERY_BLOCK,
    heartbeat: Heartbeat = no_progress,
) -> tuple[Tensor, Tensor]:
    """The ``k`` most similar of the training images of each tested one, the most similar first.

    Args:
        queries: [Q, E].
        train: [n, E]; n is at least k.

    Returns:
        Cosine similarities [Q, k] and indices [Q, k] into ``train``, on the CPU.
    """
    columns = F.normalize(torch.from_numpy(train).to(device), dim=1).T
    best, found = [], []
    for part in torch.from_numpy(queries).split(block):
        nearest = (F.normalize(part.to(device), dim=1) @ columns).topk(k, dim=1)
        best.append(nearest.values.cpu())
        found.append(nearest.indices.cpu())
        heartbeat()
    return torch.cat(best), torch.cat(found)


def predict_by_neighbours(
    similarity: Tensor, votes: Tensor, targets: Ints, classes: int, *, field: str
) -> ClassPredictions:
    """Predictions by the votes of the neighbours [Q, k]. A class without a vote ties with all others without one.

    Args:
        votes: [Q, k] classes of the neighbours.
        targets: [Q] the true classes.
    """
    block = max(1, _VOTE_NUMBERS // classes)

    def shares() -> Iterator[Tensor]:
        for near, own in zip(similarity.split(block), votes.split(block), strict=True):
            weights = (near.double() / NEIGHBOUR_TEMPERATURE).softmax(dim=1)
            yield torch.zeros(len(own), classes, dtype=torch.float64).scatter_add_(1, own, weights)

    return collect_predictions(shares(), targets, field=field, probabilities=lambda scores: scores)
