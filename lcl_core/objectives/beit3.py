"""Masked data modelling: BEiT-3 (arXiv 2208.10442, section 2.2).

L = w_t * L_text + w_i * L_image. Half of a document's words and two fifths of each image's patches are masked, and
predicted from the rest of both, in one pass with bidirectional attention. L_text is the cross-entropy of the masked
words at their own positions. L_image is the squared error of the masked patches' pixels.

Visual targets: BEiT-3 predicts discrete tokens of a tokenizer that was distilled from CLIP (BEiT v2). Every method here
is trained from scratch in one setting, without such a tokenizer. The targets are a patch's own pixels, normalised by
their mean and variance within the patch (MAE, arXiv 2111.06377, section 3): they need no other network and do not
depend on the encoder.

A masked word is a learned vector in place of its embedding, a masked patch a learned vector in place of its projection,
before positions are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn

from lcl_core.estimate import flops
from lcl_core.estimate.flops import FORWARDS_PER_STEP
from lcl_core.model.modeling_lcl import Activations, MaskedPatches
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import (
    CONTRASTIVE_PARAMETERS,
    POOLER_QUERY_PARAMETERS,
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    MeanMetric,
    Objective,
    SummedLoss,
    batch_workload,
    head_inputs,
    token_cross_entropy,
)
from lcl_core.ops.attention import BidirectionalLayout
from lcl_core.ops.linear_cross_entropy import count_correct

if TYPE_CHECKING:
    from lcl_core.model.configuration_lcl import LCLConfig
    from lcl_core.model.modeling_lcl import LCLModel
    from lcl_core.specs.pretrain import ObjectiveSpec


_MIN_BLOCK = 16 / 196  # share of the patches that a block has at least, unless fewer are left to mask
_MIN_ASPECT = 0.3  # aspect ratio of a block, or its inverse


def masked_positions(draw: np.random.Generator, places: np.ndarray, ratio: float) -> np.ndarray:
    """A share of ``places``, ascending, without repetition; one at least where there is any."""
    count = min(len(places), max(1, round(ratio * len(places))))
    return np.sort(draw.permutation(places)[:count])


def masked_block_patches(draw: np.random.Generator, side: int, ratio: float) -> np.ndarray:
    """Numbers of masked patches of a ``side`` x ``side`` grid, ascending: rectangles until the share is reached.

    Block-wise masking as in BEiT (arXiv 2106.08254, algorithm 1), but for the last block, of which only as many patches
    are taken as are due, so that every image has the same number. One patch at least is masked and, where there are
    two, one is left.
    """
    total = side * side
    count = max(1, min(round(ratio * total), total - 1))
    grid = np.zeros((side, side), bool)
    while (missing := count - int(grid.sum())) > 0:
        rows, columns = _random_block(draw, side, missing)
        block = np.zeros_like(grid)
        block[rows, columns] = True
        grid.reshape(-1)[np.flatnonzero(block & ~grid)[:missing]] = True
    return np.flatnonzero(grid)


def _random_block(draw: np.random.Generator, side: int, missing: int) -> tuple[slice, slice]:
    area = draw.uniform(min(_MIN_BLOCK * side * side, missing), missing)
    aspect = math.exp(draw.uniform(math.log(_MIN_ASPECT), -math.log(_MIN_ASPECT)))
    height = min(side, max(1, round(math.sqrt(area * aspect))))
    width = min(side, max(1, round(math.sqrt(area / aspect))))
    top, left = int(draw.integers(side - height + 1)), int(draw.integers(side - width + 1))
    return slice(top, top + height), slice(left, left + width)


_INIT_STD = 0.02  # of a mask's initial vector, as of a word's
_EPSILON = 1e-6  # added to a patch's variance


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
    idle = (*POOLER_QUERY_PARAMETERS, *CONTRASTIVE_PARAMETERS)

    def __init__(self, config: LCLConfig, spec: ObjectiveSpec) -> None:
        super().__init__(spec.weights)
        self.text_ratio, self.image_ratio = spec.text_mask_ratio, spec.image_mask_ratio
        width, pixels = config.text_width, 3 * config.patch_size**2
        self.hidden_word = nn.Parameter(torch.randn(width) * _INIT_STD)
        self.hidden_patch = nn.Parameter(torch.randn(config.vision_width) * _INIT_STD)
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
        batch = PackedBatch.pack(rows, pixel_values, config, patches, BidirectionalLayout)
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
            places.append(start + masked_positions(draw, words, self.text_ratio))
            start += len(row)
        return torch.from_numpy(np.concatenate(places))

    def _patches(self, rows: Sequence[Tensor], draws: Sequence[np.random.Generator], config: LCLConfig) -> Tensor:
        """[n, N] true at the patches to hide."""
        side = config.image_size // config.patch_size
        masks = []
        for row, draw in zip(rows, draws, strict=True):
            for _ in range(int((row == config.soi_token_id).sum())):
                mask = np.zeros(side * side, bool)
                mask[masked_block_patches(draw, side, self.image_ratio)] = True
                masks.append(mask)
        return torch.from_numpy(np.array(masks, bool).reshape(len(masks), side * side))

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        assert isinstance(batch, MaskedBatch)
        return {"masked_text": len(batch.labels), "masked_image": len(batch.restored)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        assert isinstance(batch, MaskedBatch)
        blanks = MaskedPatches(batch.blanks, self.hidden_patch)
        latents, tokens = model.encode_images(batch.pixel_values, batch.patches, blanks)
        embeddings = model.embed(batch.token_ids, batch.image_slots, tokens)
        vectors = self.hidden_word.to(embeddings.dtype).expand(len(batch.labels), -1)
        embeddings = embeddings.index_copy(0, batch.label_positions, vectors)
        return EncodedBatch(Activations(latents, tokens, model.text(embeddings, batch.positions, batch.plan)))

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: EncodedBatch, joint: GlobalBatch) -> BatchLosses:
        assert isinstance(batch, MaskedBatch)
        hidden = encoding.reading.hidden
        sums = {
            "masked_text": SummedLoss(token_cross_entropy(model, hidden, batch), self.weights["masked_text"]),
            "masked_image": SummedLoss(self._pixel_error(model, hidden, batch), self.weights["masked_image"]),
        }
        return BatchLosses(sums, self._accuracy(model, hidden, batch) if joint.measured else {})

    def _pixel_error(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> Tensor:
        """Squared error of normalised pixels, a mean within each patch, summed over patches."""
        restored = self.pixels(hidden.index_select(0, batch.blank_slots)).float()
        wanted = _patch_pixels(batch.pixel_values, model.config.patch_size).index_select(0, batch.restored).float()
        variance, mean = torch.var_mean(wanted, dim=1, keepdim=True)
        return (restored - (wanted - mean) / (variance + _EPSILON).sqrt()).square().mean(dim=1).sum()

    @torch.no_grad()
    def _accuracy(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> dict[str, MeanMetric]:
        correct = count_correct(head_inputs(model, hidden, batch), model.lm_head[1].weight, batch.labels)
        return {"masked_text_accuracy": MeanMetric(correct, torch.full_like(correct, len(batch.labels)))}

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        assert isinstance(batch, MaskedBatch)
        return FORWARDS_PER_STEP * flops.beit3_flops(config, batch_workload(config, batch, len(batch.restored)))


def _patch_pixels(pixel_values: Tensor, side: int) -> Tensor:
    """[n, 3, S, S] → [n * N, 3 * side * side], patches row by row as the tower takes them."""
    images, channels, size, _ = pixel_values.shape
    grid = size // side
    cut = pixel_values.view(images, channels, grid, side, grid, side)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(images * grid * grid, channels * side * side)
