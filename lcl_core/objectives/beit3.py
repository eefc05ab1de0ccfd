"""Masked data modelling: BEiT-3 (arXiv 2208.10442, section 2.2).

L = w_t * L_text + w_i * L_image. Half of a document's words and two fifths of each image's patches are hidden, and
restored from what is left of both, in one pass with attention in both directions. L_text is the cross-entropy of the
hidden words at their own places. L_image is the squared error of the hidden patches' pixels.

Visual targets: BEiT-3 restores discrete tokens of a tokenizer that was itself distilled from CLIP (BEiT v2). Everything
here is trained from scratch under one setting, so there is none. The targets are a patch's own pixels, normalised by
their mean and variance within the patch (MAE, arXiv 2111.06377, section 3): they need no other network, and since
they do not depend on the encoder, it cannot make them easy.

A hidden word is a learned vector in place of its embedding, a hidden patch a learned vector in place of its projection,
before positions are added; so the vision tower does not see it, and the text tower may tell it from the rest of the
image and from the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from lcl_core.costs import methods
from lcl_core.costs.flops import STEP
from lcl_core.model.attention import FullPlan
from lcl_core.model.batch import PackedBatch
from lcl_core.model.output import Reading
from lcl_core.model.vision import Blanks
from lcl_core.objectives.head import count_correct
from lcl_core.objectives.masking import masked_blocks, masked_places
from lcl_core.objectives.objective import Joint, Objective
from lcl_core.objectives.parts import CONTRASTING, POOLING, head_inputs, load_of, token_cross_entropy
from lcl_core.objectives.terms import Encoding, Losses, Ratio, Sum

if TYPE_CHECKING:
    from lcl_core.model.configuration import LCLConfig
    from lcl_core.model.modeling import LCLModel
    from lcl_core.specs import ObjectiveSpec

_SPREAD = 0.02  # of a mask's initial vector, as of a word's
_STEADY = 1e-6  # added to a patch's variance


@dataclass(frozen=True, kw_only=True)
class MaskedBatch(PackedBatch):
    """Labels are the hidden words, at their own positions.

    Attributes:
        blanks: [B] flat numbers of the hidden patches, image by image.
        blank_slots: [B'] flat places in the document of those that are looked at.
        restored: [B'] their flat numbers.
    """

    blanks: Tensor
    blank_slots: Tensor
    restored: Tensor


class Beit3(Objective):
    idle = (*POOLING, *CONTRASTING)

    def __init__(self, config: LCLConfig, spec: ObjectiveSpec) -> None:
        super().__init__(spec.weights)
        self.text_ratio, self.image_ratio = spec.text_mask_ratio, spec.image_mask_ratio
        width, pixels = config.text_width, 3 * config.patch_size**2
        self.hidden_word = nn.Parameter(torch.randn(width) * _SPREAD)
        self.hidden_patch = nn.Parameter(torch.randn(config.vision_width) * _SPREAD)
        self.pixels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(config, spec)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> MaskedBatch:
        batch = PackedBatch.pack(rows, pixel_values, config, patches, FullPlan)
        draws = [np.random.default_rng(key) for key in (range(len(rows)) if keys is None else keys)]
        words = self._words(rows, draws, config)
        hidden = self._patches(rows, draws, config)  # [n, N]
        seen = hidden if patches is None else hidden.gather(1, patches)
        numbers = torch.arange(hidden.numel()).view_as(hidden)
        nothing = torch.empty(0, dtype=torch.long)
        own = {
            "pair_positions": nothing,
            "pair_images": nothing,
            "label_positions": words,
            "labels": batch.token_ids[words],
            "blanks": numbers[hidden],
            "blank_slots": batch.image_slots[seen.flatten()],
            "restored": (numbers if patches is None else numbers.gather(1, patches))[seen],
        }
        return MaskedBatch(**{field.name: getattr(batch, field.name) for field in fields(batch)} | own)

    def _words(self, rows: Sequence[Tensor], draws: Sequence[np.random.Generator], config: LCLConfig) -> Tensor:
        """Flat places of the words to hide."""
        places, start = [], 0
        for row, draw in zip(rows, draws, strict=True):
            words = np.flatnonzero(~np.isin(row.numpy(), config.special_token_ids))
            places.append(start + masked_places(draw, words, self.text_ratio))
            start += len(row)
        return torch.from_numpy(np.concatenate(places))

    def _patches(self, rows: Sequence[Tensor], draws: Sequence[np.random.Generator], config: LCLConfig) -> Tensor:
        """[n, N] true at the patches to hide."""
        side = config.image_size // config.patch_size
        masks = []
        for row, draw in zip(rows, draws, strict=True):
            for _ in range(int((row == config.soi_token_id).sum())):
                mask = np.zeros(side * side, bool)
                mask[masked_blocks(draw, side, self.image_ratio)] = True
                masks.append(mask)
        return torch.from_numpy(np.array(masks, bool).reshape(len(masks), side * side))

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        assert isinstance(batch, MaskedBatch)
        return {"masked_text": len(batch.labels), "masked_image": len(batch.restored)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> Encoding:
        assert isinstance(batch, MaskedBatch)
        blanks = Blanks(batch.blanks, self.hidden_patch)
        latents, tokens = model.encode_images(batch.pixel_values, batch.patches, blanks)
        embeddings = model.embed(batch.token_ids, batch.image_slots, tokens)
        vectors = self.hidden_word.to(embeddings.dtype).expand(len(batch.labels), -1)
        embeddings = embeddings.index_copy(0, batch.label_positions, vectors)
        return Encoding(Reading(latents, tokens, model.text(embeddings, batch.positions, batch.plan)))

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: Encoding, joint: Joint) -> Losses:
        assert isinstance(batch, MaskedBatch)
        hidden = encoding.reading.hidden
        sums = {
            "masked_text": Sum(token_cross_entropy(model, hidden, batch), self.weights["masked_text"]),
            "masked_image": Sum(self._pixel_error(model, hidden, batch), self.weights["masked_image"]),
        }
        return Losses(sums, self._accuracy(model, hidden, batch) if joint.measured else {})

    def _pixel_error(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> Tensor:
        """Squared error of normalised pixels, a mean within each patch, summed over patches."""
        restored = self.pixels(hidden.index_select(0, batch.blank_slots)).float()
        wanted = _patch_pixels(batch.pixel_values, model.config.patch_size).index_select(0, batch.restored).float()
        variance, mean = torch.var_mean(wanted, dim=1, keepdim=True)
        return (restored - (wanted - mean) / (variance + _STEADY).sqrt()).square().mean(dim=1).sum()

    @torch.no_grad()
    def _accuracy(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> dict[str, Ratio]:
        correct = count_correct(head_inputs(model, hidden, batch), model.lm_head[1].weight, batch.labels)
        return {"masked_text_accuracy": Ratio(correct, torch.full_like(correct, len(batch.labels)))}

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        assert isinstance(batch, MaskedBatch)
        return STEP * methods.beit3(config, load_of(config, batch, len(batch.restored)))


def _patch_pixels(pixel_values: Tensor, side: int) -> Tensor:
    """[n, 3, S, S] → [n * N, 3 * side * side], patches row by row as the tower takes them."""
    images, channels, size, _ = pixel_values.shape
    grid = size // side
    cut = pixel_values.view(images, channels, grid, side, grid, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(images * grid * grid, channels * side * side)
