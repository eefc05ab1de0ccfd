"""Generation alone, as Flamingo learns from interleaved documents (arXiv 2204.14198, section 2.4).

L = L_gen: next-token cross-entropy on the text, read with the image tokens in place. It is :mod:`.lcl` with lambda = 0,
without computing what is multiplied by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lcl_core.costs import methods
from lcl_core.costs.flops import STEP
from lcl_core.model.output import Reading
from lcl_core.objectives.objective import Joint, Objective
from lcl_core.objectives.parts import CONTRASTING, POOLING, load_of, token_cross_entropy
from lcl_core.objectives.terms import Encoding, Losses, Sum

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel


class Flamingo(Objective):
    idle = (*POOLING, *CONTRASTING)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"generation": len(batch.labels)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> Encoding:
        latents, tokens = model.encode_images(batch.pixel_values, batch.patches)
        return Encoding(Reading(latents, tokens, model.read_documents(batch, tokens)))

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: Encoding, joint: Joint) -> Losses:
        total = token_cross_entropy(model, encoding.reading.hidden, batch)
        return Losses({"generation": Sum(total, self.weights["generation"])})

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return STEP * methods.flamingo(config, load_of(config, batch))
