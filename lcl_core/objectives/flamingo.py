"""Generation alone, as Flamingo learns from interleaved documents (arXiv 2204.14198, section 2.4).

L = L_gen: next-token cross-entropy on the text, read together with the image tokens: :mod:`.lcl` with lambda = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from lcl_core.model.modeling_lcl import Activations, LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import (
    CONTRASTIVE_PARAMETERS,
    POOLER_QUERY_PARAMETERS,
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    Objective,
    SummedLoss,
)
from lcl_core.specs.pretrain import MethodName


class Flamingo(Objective):
    name: ClassVar[MethodName] = "flamingo"
    unused_parameters = (*POOLER_QUERY_PARAMETERS, *CONTRASTIVE_PARAMETERS)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"generation": len(batch.labels)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        latents, tokens = model.encode_images(batch.pixel_values)
        return EncodedBatch(Activations(latents, tokens, model.encode_documents(batch, tokens)))

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        total = model.next_token_loss(encoded.activations.hidden, batch)
        return BatchLosses({"generation": SummedLoss(total, self.weights["generation"])})
