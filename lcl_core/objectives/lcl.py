"""Latent Compression Learning (arXiv 2406.07543, Method).

L = lambda * L_con + L_gen. L_con is a symmetric InfoNCE between an image's pooled latent and the text tower's output
at that image's ``<soi>``, which has read only what precedes it. L_gen is next-token cross-entropy on the text, read
with the image tokens in place. Together they maximise the mutual information between the latents that go into the
causal model and what comes out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from lcl_core.estimate import flops
from lcl_core.estimate.flops import FORWARDS_PER_STEP
from lcl_core.model.modeling_lcl import Activations
from lcl_core.objectives.base import (
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    Objective,
    SummedLoss,
    batch_workload,
    context_pairs,
    token_cross_entropy,
)

if TYPE_CHECKING:
    from lcl_core.model.configuration_lcl import LCLConfig
    from lcl_core.model.modeling_lcl import LCLModel
    from lcl_core.model.packed_batch import PackedBatch


class Lcl(Objective):
    @classmethod
    def of(cls, config: LCLConfig) -> Self:
        """With the weights that a model's configuration names."""
        return cls({"contrastive": config.contrastive_weight, "generation": config.generation_weight})

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"generation": len(batch.labels), "contrastive": len(batch.pair_images)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        latents, tokens = model.encode_images(batch.pixel_values, batch.patches)
        hidden = model.read_documents(batch, tokens)
        pairs = context_pairs(model, latents, hidden, batch, self.weights["contrastive"])
        return EncodedBatch(Activations(latents, tokens, hidden), pairs)

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: EncodedBatch, joint: GlobalBatch) -> BatchLosses:
        total = token_cross_entropy(model, encoding.reading.hidden, batch)
        return BatchLosses({"generation": SummedLoss(total, self.weights["generation"])})

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return FORWARDS_PER_STEP * flops.lcl_flops(config, batch_workload(config, batch))
