"""Contrastive pre-training from image-text pairs, without captioning (CLIP) and with it (CoCa).

CLIP (arXiv 2103.00020, section 2.3): L = L_con = 1/2 (CE(S, diag) + CE(S^T, diag)), S = exp(s) I T^T over the pairs of
the global batch. I: pooled latents. T: the text tower's outputs at the ``<soi>`` of ``sot text <soi>``, as
``LCLModel.get_text_features`` gives them. The text is encoded without its image, in one pass.

CoCa (arXiv 2205.01917, section 3.2): L = lambda_con * L_con + lambda_cap * L_cap, by default 1 and 2. L_cap is
next-token cross-entropy on the caption behind its image: ``<soi> img x N <eoi> text eot``. The text tower reads every
caption twice. CoCa's decoder sees the image by cross-attention in its upper half; here image tokens are part of the
text, as in all objectives of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import Activations, LCLModel
from lcl_core.model.packed_batch import (
    PackedBatch,
    PackedTokens,
    as_context_row,
    find_label_positions,
    hash_tensors,
)
from lcl_core.objectives.base import (
    LM_HEAD_PARAMETERS,
    BatchLosses,
    ContrastiveObjective,
    EncodedBatch,
    GlobalBatch,
)
from lcl_core.objectives.lcl import Lcl
from lcl_core.specs.pretrain import TEXT_CONTEXT_LENGTH, MethodName


def pack_pairs(rows: Sequence[Tensor], pixel_values: Tensor, config: LCLConfig, *, captions: bool) -> PackedBatch:
    """Pack pairs, whose rows may have text and image in either order.

    Every caption is a row ``sot text <soi>``, cut as ``LCLModel.get_text_features`` cuts it; a contrastive pair is its
    last position and its image. With ``captions``, rows ``<soi> img x N <eoi> text eot`` come before these, and have
    all the labels.
    """
    per_image = config.num_image_tokens
    texts = [_caption_text(row, per_image, config) for row in rows]
    if len(pixel_values) != len(rows):
        raise _not_a_pair(f"{len(rows)} pairs have {len(pixel_values)} images")
    captioned = [caption_ids(text, per_image, config) for text in texts] if captions else []
    contexts = [_context_ids(text, config) for text in texts]
    tokens = PackedTokens.pack([*captioned, *contexts], config)
    lengths = [len(row) for row in (*captioned, *contexts)]
    label_positions = find_label_positions(tokens, config)
    label_positions = label_positions[label_positions < sum(lengths[: len(captioned)])]
    return PackedBatch(
        pixel_values=pixel_values,
        token_ids=tokens.ids,
        positions=tokens.positions,
        lengths=tuple(lengths),
        layout=tokens.layout,
        image_slots=torch.nonzero(tokens.ids == config.img_token_id).flatten(),
        pair_positions=torch.tensor(lengths).cumsum(0)[len(captioned) :] - 1,
        pair_images=torch.arange(len(rows)),
        pair_groups=torch.tensor([hash_tensors(text) for text in contexts], dtype=torch.int64),
        label_positions=label_positions,
        labels=tokens.ids[label_positions + 1],
    )


def caption_ids(text: Tensor, per_image: int, config: LCLConfig) -> Tensor:
    """``<soi> img x N <eoi> text eot``."""
    block = [config.soi_token_id, *[config.img_token_id] * per_image, config.eoi_token_id]
    return torch.cat((torch.tensor(block), text, torch.tensor([config.eot_token_id])))


def _context_ids(text: Tensor, config: LCLConfig) -> Tensor:
    row = torch.cat((torch.tensor([config.sot_token_id]), text, torch.tensor([config.eot_token_id])))
    return as_context_row(row[: min(TEXT_CONTEXT_LENGTH, config.context_length)], config)


def _caption_text(row: Tensor, per_image: int, config: LCLConfig) -> Tensor:
    """The ids of a pair's caption alone."""
    images = int((row == config.soi_token_id).sum()), int((row == config.img_token_id).sum())
    if images != (1, per_image):
        raise _not_a_pair(f"a row holds {images[0]} image starts and {images[1]} placeholders")
    return row[~torch.isin(row, torch.tensor(config.special_token_ids))]


def _not_a_pair(problem: str) -> UserError:
    message = f"{problem}; this objective learns from pairs of one image and one text"
    return UserError(message, field="objective.name")


class Clip(ContrastiveObjective):
    name: ClassVar[MethodName] = "clip"
    unused_parameters = LM_HEAD_PARAMETERS

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        return pack_pairs(rows, pixel_values, config, captions=False)

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {"contrastive": len(batch.pair_images)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        latents = model.pool_project.pool(model.visual(batch.pixel_values))
        hidden = model.text(model.text.token_embedding(batch.token_ids), batch.positions, batch.layout)
        return EncodedBatch(Activations(latents, None, hidden), self.contrast(model, latents, hidden, batch))

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        return BatchLosses({})


class Coca(Lcl):
    name: ClassVar[MethodName] = "coca"

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        keys: Sequence[int] | None = None,
    ) -> PackedBatch:
        return pack_pairs(rows, pixel_values, config, captions=True)
