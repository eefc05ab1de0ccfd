"""Latent Compression Learning (arXiv 2406.07543, Method).

L = lambda * L_con + L_gen. L_con is a symmetric InfoNCE between an image's pooled latent and the text tower's output
at that image's ``<soi>``, which has read only what precedes it. L_gen is next-token cross-entropy on the text, read
together with the image tokens. Together the losses maximise the mutual information between the input latents of the
causal model and its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import Activations, LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import BatchLosses, ContrastiveObjective, EncodedBatch, GlobalBatch, SummedLoss
from lcl_core.specs.pretrain import MethodName


class Lcl(ContrastiveObjective):
    name: ClassVar[MethodName] = "lcl"

    @classmethod
    def from_config(cls, config: LCLConfig) -> Self:
        """With the weights of a model's configuration."""
        return cls({"contrastive": config.contrastive_weight, "generation": config.generation_weight})

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"generation": len(batch.labels), "contrastive": len(batch.pair_images)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        latents, tokens = model.encode_images(batch.pixel_values)
        hidden = model.encode_documents(batch, tokens)
        return EncodedBatch(Activations(latents, tokens, hidden), self.contrast(model, latents, hidden, batch))

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        total = model.next_token_loss(encoded.activations.hidden, batch)
        return BatchLosses({"generation": SummedLoss(total, self.weights["generation"])})
