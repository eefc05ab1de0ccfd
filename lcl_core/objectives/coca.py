"""Contrastive and captioning: CoCa (arXiv 2205.01917, section 3.2).

L = lambda_con * L_con + lambda_cap * L_cap, by default 1 and 2. L_con is CLIP's, over captions read for themselves.
L_cap is next-token cross-entropy on the caption read behind its image: ``<soi> img x N <eoi> text eot``. So the text
tower reads every caption twice. CoCa's decoder sees the image by cross-attention in its upper half; here, as in all
methods under this roof, image tokens stand in the text. Both losses are :mod:`.lcl`'s, on these rows in place of
documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lcl_core.objectives.captions import pack_pairs
from lcl_core.objectives.lcl import Lcl

if TYPE_CHECKING:
    from lcl_core.model.batch import PackedBatch
    from lcl_core.model.configuration import LCLConfig


class Coca(Lcl):
    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        return pack_pairs(rows, pixel_values, config, patches, captions=True)
