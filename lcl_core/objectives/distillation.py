"""Distillation beside a pre-training method: pooled latents regress the features of a frozen teacher.

L = L_method + w * mean over images of 1 - cos(P z, t), with z the pooled latent [D] before normalisation, t the
teacher's feature [E] of the same pixels, and P a matrix that is trained and not exported. The distance is EVA's
(arXiv 2211.07636, section 2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.data.sampling.shuffle import mix64
from lcl_core.estimate.flops import Workload
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import (
    POOLER_QUERY_PARAMETERS,
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    Objective,
    SummedLoss,
)

LOSS = "distillation"
Teacher = Callable[[Tensor], Tensor]


class Distillation(Objective):
    """A method with the regression of a teacher's features as an additional loss.

    Args:
        method: does everything else.
        teacher: [n, 3, S, S] pixels of the model → features [n, E], without gradient. It is not part of the module: it
            is neither trained, nor sharded, nor saved.
        latent_width, feature_width: D and E.
        weight: of the loss.
        seed: of the projection's initial weights.
    """

    def __init__(
        self, method: Objective, teacher: Teacher, latent_width: int, feature_width: int, weight: float, seed: int
    ) -> None:
        super().__init__({**method.weights, LOSS: weight})
        self.method, self.teacher = method, teacher
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix64(seed, 1, 1))
            self.projection = nn.Linear(latent_width, feature_width, bias=False)
        # the pooler's query is used now, whatever the method does with it
        self.unused_parameters = tuple(name for name in method.unused_parameters if name not in POOLER_QUERY_PARAMETERS)

    @property
    def reads_terms(self) -> bool:
        return self.method.reads_terms

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {**self.method.counts(batch), LOSS: len(batch.pixel_values)}

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        found = self.method.losses(model, batch, encoded, global_batch)
        with torch.no_grad():
            target = self.teacher(batch.pixel_values)
        predicted = self.projection(encoded.activations.image_latents)
        distance = 1 - F.cosine_similarity(predicted.float(), target.float(), dim=-1)
        return BatchLosses({**found.sums, LOSS: SummedLoss(distance.sum(), self.weights[LOSS])}, found.metrics)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        return self.method.collate(rows, pixel_values, config, keys)

    def max_text_length(self, batch: PackedBatch) -> int:
        return self.method.max_text_length(batch)

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        return self.method.encode(model, batch)

    def before_training(self, model: LCLModel) -> None:
        self.method.before_training(model)

    def after_step(self, model: LCLModel) -> None:
        self.method.after_step(model)

    def workload(self, config: LCLConfig, batch: PackedBatch) -> Workload:
        return self.method.workload(config, batch)

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        """Those of the method: the teacher's do not belong to the model that is trained."""
        return self.method.flops(config, batch)


def undistilled(objective: Objective) -> Objective:
    """The method alone, without a teacher."""
    return objective.method if isinstance(objective, Distillation) else objective
