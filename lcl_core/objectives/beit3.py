"""Masked data modelling: BEiT-3 (arXiv 2208.10442, section 2.2) with pixels as visual targets.

L = w_t * L_text + w_i * L_image. Half of a document's words and two fifths of each image's patches are masked, and
predicted from the others, in one pass with bidirectional attention. L_text is the cross-entropy of the masked words at
their own positions. L_image is the squared error of the masked patches' pixels. With ``alternate`` masking a document
has either masked words, predicted from all patches, or masked patches, predicted from all words; BEiT-3 masks pairs in
this way.

Visual targets: BEiT-3 predicts discrete tokens of a tokenizer that was distilled from CLIP (BEiT v2). Every method here
is trained from scratch in one setting, without such a tokenizer. The targets are a patch's own pixels, normalised by
their mean and variance within the patch (MAE, arXiv 2111.06377, section 3): they need no other network and do not
depend on the encoder.

A learned vector replaces the embedding of a masked word, and another one the projection of a masked patch, before
positions are added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from lcl_core.estimate.flops import Workload
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import Activations, LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.model.vision_towers import MaskedPatches
from lcl_core.objectives.base import (
    CONTRASTIVE_PARAMETERS,
    POOLER_QUERY_PARAMETERS,
    BatchLosses,
    EncodedBatch,
    GlobalBatch,
    MeanMetric,
    Objective,
    SummedLoss,
)
from lcl_core.ops.attention import BidirectionalLayout
from lcl_core.ops.linear_cross_entropy import count_correct
from lcl_core.specs.pretrain import IMAGE_MASK_RATIO, TEXT_MASK_RATIO, MethodName, ObjectiveSpec

_MIN_BLOCK = 16 / 196  # share of the patches that a block has at least, unless fewer are left to mask
_MIN_ASPECT = 0.3  # aspect ratio of a block, or its inverse


def masked_positions(draw: np.random.Generator, positions: np.ndarray, ratio: float) -> np.ndarray:
    """A share of ``positions``, ascending, without repetition; at least one if there are any."""
    count = min(len(positions), max(1, round(ratio * len(positions))))
    return np.sort(draw.permutation(positions)[:count])


def masked_block_patches(draw: np.random.Generator, side: int, ratio: float) -> np.ndarray:
    """Numbers of masked patches of a ``side`` x ``side`` grid, ascending: rectangles until the share is reached.

    Block-wise masking as in BEiT (arXiv 2106.08254, algorithm 1), with the last block cut, so that every image has the
    same number. At least one patch is masked and, where there are two, one is left.
    """
    total = side * side
    count = max(1, min(round(ratio * total), total - 1))
    grid = np.zeros((side, side), bool)
    while (missing := count - int(grid.sum())) > 0:
        area = draw.uniform(min(_MIN_BLOCK * side * side, missing), missing)
        aspect = math.exp(draw.uniform(math.log(_MIN_ASPECT), -math.log(_MIN_ASPECT)))
        height = min(side, max(1, round(math.sqrt(area * aspect))))
        width = min(side, max(1, round(math.sqrt(area / aspect))))
        top, left = int(draw.integers(side - height + 1)), int(draw.integers(side - width + 1))
        rows, columns = slice(top, top + height), slice(left, left + width)
        block = np.zeros_like(grid)
        block[rows, columns] = True
        grid.reshape(-1)[np.flatnonzero(block & ~grid)[:missing]] = True
    return np.flatnonzero(grid)


def _either(draw: np.random.Generator) -> tuple[bool, bool]:
    """One of two, with equal chances."""
    first = bool(draw.random() < 0.5)
    return first, not first


_INIT_STD = 0.02  # of a mask's initial vector, as of a word's
_EPSILON = 1e-6  # added to a patch's variance


@dataclass(frozen=True, kw_only=True)
class MaskedBatch(PackedBatch):
    """Labels are the masked words, at their own positions.

    Attributes:
        masked_patches: [B] flat numbers of the masked patches, image by image.
        target_slots: [B] their flat positions in the documents.
    """

    masked_patches: Tensor
    target_slots: Tensor


class Beit3(Objective):
    name: ClassVar[MethodName] = "beit3"
    unused_parameters = (*POOLER_QUERY_PARAMETERS, *CONTRASTIVE_PARAMETERS)

    def __init__(self, config: LCLConfig, spec: ObjectiveSpec) -> None:
        super().__init__(spec.weights)
        self.masking = spec.masking
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
        keys: Sequence[int] | None = None,
    ) -> MaskedBatch:
        batch = PackedBatch.pack(rows, pixel_values, config)
        draws = [np.random.default_rng(key) for key in (range(len(rows)) if keys is None else keys)]
        # of each document: are its words masked, are its patches?
        masks = [(True, True) if self.masking == "joint" else _either(draw) for draw in draws]
        words = self._masked_words(rows, draws, [text for text, _ in masks], config)
        masked = self._masked_patches(rows, draws, [image for _, image in masks], config)  # [n, N]
        masked_patches = torch.nonzero(masked.flatten()).flatten()
        empty = torch.empty(0, dtype=torch.long)
        own = {
            "layout": BidirectionalLayout.from_lengths(list(batch.lengths)),
            "pair_positions": empty,
            "pair_images": empty,
            "pair_groups": empty,
            "label_positions": words,
            "labels": batch.token_ids[words],
            "masked_patches": masked_patches,
            "target_slots": batch.image_slots[masked_patches],
        }
        return MaskedBatch(**{field.name: getattr(batch, field.name) for field in fields(batch)} | own)

    def _masked_words(
        self, rows: Sequence[Tensor], draws: Sequence[np.random.Generator], masked: Sequence[bool], config: LCLConfig
    ) -> Tensor:
        """Flat positions of the words to mask, in the documents whose words are."""
        positions, start = [np.empty(0, np.int64)], 0
        for row, draw, chosen in zip(rows, draws, masked, strict=True):
            if chosen:
                words = np.flatnonzero(~np.isin(row.numpy(), config.special_token_ids))
                positions.append(start + masked_positions(draw, words, TEXT_MASK_RATIO))
            start += len(row)
        return torch.from_numpy(np.concatenate(positions))

    def _masked_patches(
        self, rows: Sequence[Tensor], draws: Sequence[np.random.Generator], masked: Sequence[bool], config: LCLConfig
    ) -> Tensor:
        """[n, N] true at the patches to mask, in the documents whose patches are."""
        side = config.image_size // config.patch_size
        masks = []
        for row, draw, chosen in zip(rows, draws, masked, strict=True):
            for _ in range(int((row == config.soi_token_id).sum())):
                mask = np.zeros(side * side, bool)
                if chosen:
                    mask[masked_block_patches(draw, side, IMAGE_MASK_RATIO)] = True
                masks.append(mask)
        return torch.from_numpy(np.array(masks, bool).reshape(len(masks), side * side))

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        assert isinstance(batch, MaskedBatch)
        return {"masked_text": len(batch.labels), "masked_image": len(batch.masked_patches)}

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        assert isinstance(batch, MaskedBatch)
        masked = MaskedPatches(batch.masked_patches, self.hidden_patch)
        latents, tokens = model.encode_images(batch.pixel_values, masked)
        embeddings = model.embed_tokens(batch.token_ids, batch.image_slots, tokens)
        vectors = self.hidden_word.to(embeddings.dtype).expand(len(batch.labels), -1)
        embeddings = embeddings.index_copy(0, batch.label_positions, vectors)
        return EncodedBatch(Activations(latents, tokens, model.text(embeddings, batch.positions, batch.layout)))

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        assert isinstance(batch, MaskedBatch)
        hidden = encoded.activations.hidden
        sums = {
            "masked_text": SummedLoss(model.next_token_loss(hidden, batch), self.weights["masked_text"]),
            "masked_image": SummedLoss(self._pixel_error(model, hidden, batch), self.weights["masked_image"]),
        }
        return BatchLosses(sums, self._accuracy(model, hidden, batch) if global_batch.compute_metrics else {})

    def _pixel_error(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> Tensor:
        """Squared error of normalised pixels, a mean within each patch, summed over patches."""
        predicted = self.pixels(hidden.index_select(0, batch.target_slots)).float()
        side = model.config.patch_size
        images, channels, size, _ = batch.pixel_values.shape
        grid = size // side
        # patches row by row, in the tower's order
        cut = batch.pixel_values.view(images, channels, grid, side, grid, side)
        pixels = cut.permute(0, 2, 4, 1, 3, 5).reshape(images * grid * grid, channels * side * side)
        target = pixels.index_select(0, batch.masked_patches).float()
        variance, mean = torch.var_mean(target, dim=1, keepdim=True)
        return (predicted - (target - mean) / (variance + _EPSILON).sqrt()).square().mean(dim=1).sum()

    @torch.no_grad()
    def _accuracy(self, model: LCLModel, hidden: Tensor, batch: MaskedBatch) -> dict[str, MeanMetric]:
        correct = count_correct(model.lm_head_inputs(hidden, batch), model.lm_head[1].weight, batch.labels)
        return {"masked_text_accuracy": MeanMetric(correct, torch.full_like(correct, len(batch.labels)))}

    def workload(self, config: LCLConfig, batch: PackedBatch) -> Workload:
        assert isinstance(batch, MaskedBatch)
        return replace(super().workload(config, batch), restored=len(batch.masked_patches))
