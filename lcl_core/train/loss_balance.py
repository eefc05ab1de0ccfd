"""Weight of the contrastive loss, and the ratio of its gradient to that of generation on the vision tower.

The same weight gives a different balance at a different batch size, width or stage of training. The ratio
|λ g_contrastive| / |g_generation| over the parameters of the vision tower says which loss trains it. It is measured
with a copy of the weights, so measuring leaves the training bitwise unchanged; it can be held by adjusting λ.
GradNorm (arXiv 1711.02257, section 3) balances tasks by the same norms, over weights that the tasks share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lcl_core.common.device import tf32_matmul
from lcl_core.model import PackedBatch
from lcl_core.objectives.base import GlobalBatch, LossTerms
from lcl_core.objectives.distillation import undistilled
from lcl_core.specs.pretrain import ObjectiveSpec
from lcl_core.train.checkpoint.state import TrainingProgress
from lcl_core.train.distributed import RankGroup
from lcl_core.train.monitor import WeightsCopy
from lcl_core.train.train_step import CONTRASTIVE, AnyBatch, TrainingModule

GENERATION = "generation"
_GAIN = 0.2  # share of the distance to the wanted ratio, in logarithms, that one measurement covers
_MAX_FACTOR = 1.5  # of the weight in one measurement
_LOWEST, _HIGHEST = 1e-4, 1e3


class LossBalance:
    """Sets the weight of the contrastive loss before each step. All ranks make every call.

    Args:
        copy: to measure the ratio with; none: it is not measured.
    """

    def __init__(
        self, spec: ObjectiveSpec, trained: TrainingModule, copy: WeightsCopy | None, ranks: RankGroup
    ) -> None:
        self.spec, self._trained, self._copy, self._ranks = spec, trained, copy, ranks
        self._method = undistilled(trained.objective)

    def set_weight(self, progress: TrainingProgress) -> None:
        """Set the weight of the step after ``progress.step``."""
        if self.spec.hold_gradient_ratio is not None and progress.contrastive_weight is not None:
            self._method.weights[CONTRASTIVE] = progress.contrastive_weight

    def metrics(self, batch: AnyBatch, progress: TrainingProgress, *, measure: bool, adjust: bool) -> dict[str, float]:
        """Numbers of a step before it is done, the same on all ranks.

        Args:
            batch: this rank's first micro-batch.
            measure: whether to measure the ratio.
            adjust: whether a measured ratio that is to be held changes the weight of the next step. Which steps do so
                must depend on neither the monitor nor the number of steps, or the weights of the model would.
        """
        weight, found = self._method.weights.get(CONTRASTIVE, 0.0), {}
        if self.spec.hold_gradient_ratio is not None:
            found["contrastive_weight"] = weight
        if measure and self._copy is not None and (ratio := self._measure(self._copy, batch)) is not None:
            found["gradient_ratio"] = ratio
            if adjust and self.spec.hold_gradient_ratio is not None:
                progress.contrastive_weight = adjusted_weight(weight, ratio, self.spec.hold_gradient_ratio)
        return found

    def _measure(self, copy: WeightsCopy, batch: AnyBatch) -> float | None:
        """The ratio over the ranks whose first micro-batch contrasts something; None where it is not defined."""
        copy.load(self._trained)
        own = gradient_squares(copy, batch.to(copy.model.device))
        squares = [found for found in self._ranks.all_gather_object(own) if found is not None]
        if not squares:
            return None
        contrastive, generation = (math.sqrt(sum(column)) for column in zip(*squares, strict=True))
        ratio = contrastive / generation if generation else math.nan
        return ratio if math.isfinite(ratio) else None


def gradient_squares(copy: WeightsCopy, batch: PackedBatch) -> tuple[float, float] | None:
    """Squared norms of the vision tower's gradient of the weighted contrastive loss and of generation.

    Both are means over the batch; the contrastive loss is over its pairs alone. None for a batch with too few pairs for
    a contrastive gradient: InfoNCE over one pair is 0 whatever the weights, so its ratio says nothing about λ.
    """
    model, objective = copy.model, copy.module.objective
    parameters = list(model.visual.parameters())
    counts = objective.counts(batch)
    model.visual.requires_grad_(True)
    try:
        with torch.enable_grad(), copy.computing():
            terms: LossTerms = copy.module(batch, GlobalBatch())
            pairs, generation = terms.encoded.pairs, terms.losses.sums[GENERATION]
            assert pairs is not None
            if len(pairs.image_features) < (2 if pairs.logit_bias is None else 1):
                return None
            contrastive = pairs.loss(model.logit_scale, [len(pairs.image_features)]).loss
        losses = [
            contrastive * (pairs.weight / max(counts[CONTRASTIVE], 1)),
            generation.total * (generation.weight / max(counts[GENERATION], 1)),
        ]
        with tf32_matmul(model.device, copy.precision):
            first, second = (_square(loss, parameters) for loss in losses)
    finally:
        model.visual.requires_grad_(False)
    return first, second


def _square(loss: Tensor, parameters: Sequence[Tensor]) -> float:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) ** 2 if gradients else 0.0


def adjusted_weight(weight: float, ratio: float, target: float) -> float:
    """The weight after a measured ``ratio``, which is proportional to the weight: a part of the way to ``target``."""
    factor = (target / ratio) ** _GAIN if ratio > 0 else _MAX_FACTOR
    return min(max(weight * min(max(factor, 1 / _MAX_FACTOR), _MAX_FACTOR), _LOWEST), _HIGHEST)
