"""Multinomial logistic regression on pooled latents (CLIP, arXiv 2103.00020, appendix A.3).

L-BFGS from weights of zero, so that a fit depends on nothing but its images and its penalty; the penalty is chosen on
images held out of training. n images, E dimensions, C classes, B images a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lcl_core.evaluation.features import EvaluatedEncoder
from lcl_core.evaluation.heads.linear_probe import ClassPredictions, collect_predictions
from lcl_core.evaluation.heads.training import log_search
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.results import loss_curve
from lcl_core.evaluation.tasks.base import EvalContext, Holdout, LabeledImages, SplitImages
from lcl_core.specs.evaluate import LinearHeadSpec

_BLOCK_NUMBERS = 2**23  # logits of a block
_PASSES = 2  # over the images, in an iteration at most: its line search may take several
_ROW_COST = 1e-4  # rough cost of an image in a pass, in embedded images


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


def fit_logistic_regression(
    features: Tensor,
    targets: Tensor,
    classes: int,
    l2: float,
    *,
    iterations: int,
    on_rows: Callable[[int], None] = lambda rows: None,
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
            on_rows(len(part))
        losses.append(float(total))
        return losses[-1]

    optimizer.step(penalised_loss)
    found = scale * weights.detach()
    return LogisticRegression(found, bias.detach() - mean @ found, losses)


def linear_head_cost(spec: LinearHeadSpec, examples: int) -> float:
    """Rough cost of a fit with its sweep, in embedded images."""
    fits = 1 + len(spec.l2) if len(spec.l2) > 1 else 1
    return fits * _fit_cost(spec, examples)


def _fit_cost(spec: LinearHeadSpec, examples: int) -> float:
    return spec.iterations * _ROW_COST * examples


@dataclass(frozen=True)
class LinearTraining:
    """Fits for one encoder and one label key.

    Attributes:
        images: to train on.
        classes: their number.
        field: of the evaluation's spec that holds the heads.
        about: names the fit in artifacts: task, variant, transfer, encoder.
    """

    context: EvalContext
    encoder: EvaluatedEncoder
    spec: LinearHeadSpec
    images: SplitImages
    classes: int
    field: str
    about: dict[str, Any]

    def fit(self, train: LabeledImages, l2: float) -> LogisticRegression:
        """A model of the images ``train``."""
        left = _fit_cost(self.spec, len(train))

        def count(rows: int) -> None:  # an iteration takes one pass or several, and L-BFGS may need fewer iterations
            nonlocal left
            done = min(left, _ROW_COST * rows)
            left -= done
            self.context.progress.add(done)

        features = self._latents(self.images, train.rows)
        self.context.progress.enter(f"{self.encoder.role} encoder: {self.about['variant']}, penalty {l2:g}")
        targets = torch.from_numpy(train.classes).to(features.device)
        fitted = fit_logistic_regression(
            features, targets, self.classes, l2, iterations=self.spec.iterations, on_rows=count
        )
        self.context.progress.add(left)
        return fitted

    def predict(self, model: LogisticRegression, images: SplitImages, test: LabeledImages) -> ClassPredictions:
        """Predictions for the images ``test`` of a split."""
        block = max(1, _BLOCK_NUMBERS // self.classes)
        parts = (test.rows[start : start + block] for start in range(0, len(test), block))
        logits = (model.logits(self._latents(images, part)) for part in parts)
        return collect_predictions(logits, test.classes, field=self.field)

    def choose(self, holdout: Holdout[LabeledImages] | None) -> float:
        """The penalty with the highest accuracy on the held-out images, of equals the first; the sweep is logged."""
        if holdout is None or len(self.spec.l2) == 1:
            return self.spec.l2[0]
        tried = []
        for l2 in self.spec.l2:
            model = self.fit(holdout.train, l2)
            predictions = self.predict(model, holdout.source, holdout.test)
            tried.append({"l2": l2, "score": float(np.mean(predictions.rank == 1))})
        best = max(tried, key=lambda each: each["score"])["l2"]
        log_search(self.context, holdout, self.about, "acc@1", tried, {"l2": best})
        return best

    def log_curve(self, model: LogisticRegression) -> None:
        """Add the loss of each pass to the run's curves."""
        self.context.curves.add({**self.about, **loss_curve(model.losses)})

    def _latents(self, images: SplitImages, rows: Ints) -> Tensor:
        latents = self.context.get_pooled_latents(self.encoder, images)
        assert latents is not None  # the task has checked it
        return torch.from_numpy(latents[rows]).to(self.encoder.model.device)
