"""Contrastive image-text pre-training: CLIP (arXiv 2103.00020, section 2.3).

L = L_con = 1/2 (CE(S, diag) + CE(S^T, diag)), S = exp(s) I T^T over the pairs of the effective batch. I: the pooled
latents. T: the text tower's outputs at the ``<soi>`` of ``sot text <soi>``, as :mod:`.lcl` has them and
``LCLModel.get_text_features`` gives them. The text is read without its image, in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lcl_core.costs import methods
from lcl_core.costs.flops import STEP
from lcl_core.model.output import Reading
from lcl_core.objectives.captions import pack_pairs
from lcl_core.objectives.objective import Joint, Objective
from lcl_core.objectives.parts import PREDICTING, context_pairs, load_of
from lcl_core.objectives.terms import Encoding, Losses

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel


class Clip(Objective):
    idle = PREDICTING

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        return pack_pairs(rows, pixel_values, config, patches, captions=False)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"contrastive": len(batch.pair_images)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> Encoding:
        latents = model.pool_project.pool(model.visual(batch.pixel_values, batch.patches))
        hidden = model.text(model.text.token_embedding(batch.token_ids), batch.positions, batch.plan)
        pairs = context_pairs(model, latents, hidden, batch, self.weights["contrastive"])
        return Encoding(Reading(latents, None, hidden), pairs)

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: Encoding, joint: Joint) -> Losses:
        return Losses({})

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return STEP * methods.clip(config, load_of(config, batch))
