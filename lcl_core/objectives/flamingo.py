"""Generation alone, as Flamingo learns from interleaved documents (arXiv 2204.14198, section 2.4).

L = L_gen: next-token cross-entropy on the text, read with the image tokens in place. It is :mod:`.lcl` with lambda = 0,
without computing what is multiplied by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lcl_core.estimate import flops
from lcl_core.estimate.flops import FORWARDS_PER_STEP
from lcl_core.model.modeling_lcl import Activations
from lcl_core.objectives.base import (
    CONTRASTIVE_PARAMETERS,
    POOLER_QUERY_PARAMETERS,
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    Objective,
    SummedLoss,
    batch_workload,
    token_cross_entropy,
)

if TYPE_CHECKING:
    from lcl_core.model.configuration_lcl import LCLConfig
    from lcl_core.model.modeling_lcl import LCLModel
    from lcl_core.model.packed_batch import PackedBatch


class Flamingo(Objective):
    idle = (*POOLER_QUERY_PARAMETERS, *CONTRASTIVE_PARAMETERS)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"generation": len(batch.labels)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        latents, tokens = model.encode_images(batch.pixel_values, batch.patches)
        return EncodedBatch(Activations(latents, tokens, model.read_documents(batch, tokens)))

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: EncodedBatch, joint: GlobalBatch) -> BatchLosses:
        total = token_cross_entropy(model, encoding.reading.hidden, batch)
        return BatchLosses({"generation": SummedLoss(total, self.weights["generation"])})

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return FORWARDS_PER_STEP * flops.flamingo_flops(config, batch_workload(config, batch))
