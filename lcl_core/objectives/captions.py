"""Image-text pairs laid out for methods that read a caption for itself, and perhaps once more behind its image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lcl_core.costs.methods import CONTEXT_TOKENS
from lcl_core.errors import UserError
from lcl_core.model.batch import Layout, PackedBatch, as_context, label_places
from lcl_core.model.configuration import LCLConfig


def pack_pairs(
    rows: Sequence[Tensor], pixel_values: Tensor, config: LCLConfig, patches: Tensor | None, *, captions: bool
) -> PackedBatch:
    """Pack pairs, in whichever order their rows hold text and image.

    Every caption is a row ``sot text <soi>``, cut as ``LCLModel.get_text_features`` cuts it; the contrastive pairs are
    its last place and its image. With ``captions``, rows ``<soi> img x N <eoi> text eot`` come before these, and hold
    all the labels.

    Raises: UserError ``not_a_pair`` when a row does not hold exactly one image.
    """
    per_image = config.num_image_tokens if patches is None else patches.shape[1]
    texts = [_text(row, per_image, config) for row in rows]
    if len(pixel_values) != len(rows):
        raise _not_a_pair(f"{len(rows)} pairs have {len(pixel_values)} images")
    behind = [caption_row(text, per_image, config) for text in texts] if captions else []
    contexts = [_context(text, config) for text in texts]
    layout = Layout.of([*behind, *contexts], config.context_length)
    lengths = [len(row) for row in (*behind, *contexts)]
    places = label_places(layout, config)
    places = places[places < sum(lengths[: len(behind)])]
    return PackedBatch(
        pixel_values=pixel_values,
        token_ids=layout.ids,
        positions=layout.positions,
        lengths=tuple(lengths),
        plan=layout.plan,
        image_slots=torch.nonzero(layout.ids == config.img_token_id).flatten(),
        pair_positions=torch.tensor(lengths).cumsum(0)[len(behind) :] - 1,
        pair_images=torch.arange(len(rows)),
        label_positions=places,
        labels=layout.ids[places + 1],
        patches=patches,
    )


def caption_row(text: Tensor, per_image: int, config: LCLConfig) -> Tensor:
    """``<soi> img x N <eoi> text eot``."""
    block = [config.soi_token_id, *[config.img_token_id] * per_image, config.eoi_token_id]
    return torch.cat((torch.tensor(block), text, torch.tensor([config.eot_token_id])))


def _context(text: Tensor, config: LCLConfig) -> Tensor:
    row = torch.cat((torch.tensor([config.sot_token_id]), text, torch.tensor([config.eot_token_id])))
    return as_context(row[: min(CONTEXT_TOKENS, config.context_length)], config)


def _text(row: Tensor, per_image: int, config: LCLConfig) -> Tensor:
    """The ids of a pair's caption alone."""
    images = int((row == config.soi_token_id).sum()), int((row == config.img_token_id).sum())
    if images != (1, per_image):
        raise _not_a_pair(f"a row holds {images[0]} image starts and {images[1]} placeholders")
    return row[~torch.isin(row, torch.tensor(config.special_token_ids))]


def _not_a_pair(found: str) -> UserError:
    message = f"{found}; this objective learns from pairs of one image and one text"
    return UserError(message, code="not_a_pair", field="objective.name")
