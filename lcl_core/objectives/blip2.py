"""Contrastive, captioning and matching: BLIP-2's first stage (arXiv 2301.12597, section 3.2).

L = L_con + L_cap + L_mat. The first two are :mod:`.coca`'s. L_mat is a two-class cross-entropy: do an image and a text
belong together? Each pair (i, t) is shown three times, as itself, as (i, t') and as (i', t), with a hard negative text
t' and image i' (:mod:`.negatives`), in a third pass of the text tower with attention in both directions over
``<soi> img x N <eoi> text eot``. A linear head reads every image token's output, and their logits are averaged, as
BLIP-2 averages those of its queries. L_mat is a mean over all three kinds of all pairs.

Negatives are drawn from all pairs of the step, on all ranks and in all micro-batches, so the step is that of the one
big batch. Texts move to where an image is: they are ids. An image i' moves to where its text is as its tokens, and is
taken as it is: their gradient would have to travel back between ranks and micro-batches. BLIP-2 itself, whose image
encoder is frozen, gives none to any image; here the encoder learns from (i, t) and (i, t'), the text tower and
the head from all three. Where all texts of a step are the same there is no negative, and only the pair itself counts.

Each rank holds the tokens of all images of the step for this: images x N x D numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lcl_core.estimate import flops
from lcl_core.estimate.flops import FORWARDS_PER_STEP
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import BatchLosses, EncodedBatch, GlobalBatch, MeanMetric, SummedLoss, batch_workload
from lcl_core.objectives.clip import Coca
from lcl_core.objectives.hard_negatives import HardNegatives, NegativeCandidates, sample_hard_negatives
from lcl_core.ops.attention import BidirectionalLayout

if TYPE_CHECKING:
    from lcl_core.model.configuration_lcl import LCLConfig
    from lcl_core.model.modeling_lcl import LCLModel
    from lcl_core.specs.pretrain import ObjectiveSpec


@dataclass(frozen=True, kw_only=True)
class MatchingBatch(PackedBatch):
    """Pairs of which others may take the text.

    Attributes:
        both: how attention sees the caption rows, all of them twice.
        texts: [m, L] ids of each caption and its end, padded with zeros.
        text_lengths: [m] how many of them are real.
        keys: [m] what each pair's draws come from.
        texts_hash: [m] equal for equal texts.
    """

    both: BidirectionalLayout
    texts: Tensor
    text_lengths: Tensor
    keys: Tensor
    texts_hash: Tensor


class Blip2(Coca):
    def __init__(self, weights: Mapping[str, float], width: int) -> None:
        super().__init__(weights)
        self.matcher = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(spec.weights, config.text_width)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        patches: Tensor | None = None,
        keys: Sequence[int] | None = None,
    ) -> MatchingBatch:
        batch = super().collate(rows, pixel_values, config, patches, keys)
        lengths = list(batch.lengths[: len(rows)])
        block = 2 + len(batch.image_slots) // len(rows)
        texts = [row[block:] for row in batch.token_ids[: sum(lengths)].split(lengths)]
        numbers = np.array(range(len(rows)) if keys is None else keys, np.uint64).view(np.int64)
        return MatchingBatch(
            **{field.name: getattr(batch, field.name) for field in fields(batch)},
            both=BidirectionalLayout.from_lengths(lengths * 2),
            texts=pad_sequence(texts, batch_first=True),
            text_lengths=torch.tensor([len(text) for text in texts]),
            keys=torch.from_numpy(numbers),
            texts_hash=torch.tensor([_hash(text) for text in texts]),
        )

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {**super().counts(batch), "matching": 3 * len(batch.pixel_values)}

    def widest(self, batch: PackedBatch) -> int:
        return _matching(batch).texts.shape[1]

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        encoding, own = super().encode(model, batch), _matching(batch)
        pairs, tokens = encoding.pairs, encoding.reading.patch_tokens
        assert pairs is not None
        assert tokens is not None
        features = pairs.image_features, pairs.text_features
        offer = NegativeCandidates(*features, tokens, own.texts, own.text_lengths, own.keys, own.texts_hash)
        return replace(encoding, offer=offer.detached())

    def losses(self, model: LCLModel, batch: PackedBatch, encoding: EncodedBatch, joint: GlobalBatch) -> BatchLosses:
        captioning, own, offer = super().losses(model, batch, encoding, joint), _matching(batch), encoding.offer
        assert offer is not None
        everyone = joint.meet(offer)
        negatives = sample_hard_negatives(offer, everyone, model.logit_scale.detach())
        tokens = encoding.reading.patch_tokens
        assert tokens is not None
        others = everyone.patch_tokens.index_select(0, negatives.images)
        logits = torch.cat(
            (
                self._of_own_texts(model, own, torch.cat((tokens, others))),
                self._of_other_texts(model, own, tokens, everyone, negatives),
            )
        )
        there = torch.cat((torch.ones_like(negatives.there), negatives.there, negatives.there))
        matched = torch.zeros_like(there, dtype=torch.long)
        matched[: len(tokens)] = 1
        total = (F.cross_entropy(logits.float(), matched, reduction="none") * there).sum()
        right = (logits.detach().argmax(dim=1) == matched) * there
        matching = SummedLoss(total, self.weights["matching"])
        accuracy = MeanMetric(right.sum(), there.sum())
        return BatchLosses({**captioning.sums, "matching": matching}, {"matching_accuracy": accuracy})

    def _of_own_texts(self, model: LCLModel, batch: MatchingBatch, tokens: Tensor) -> Tensor:
        """[2m, 2] of each caption behind its image, and then behind another. ``tokens``: [2m, N, D] of those images."""
        end = len(batch.token_ids) - sum(batch.lengths[len(batch.texts) :])
        slots = torch.cat((batch.image_slots, batch.image_slots + end))
        embeddings = model.embed(batch.token_ids[:end].repeat(2), slots, tokens)
        hidden = model.text(embeddings, batch.positions[:end].repeat(2), batch.both)
        return self._matched(hidden.index_select(0, slots), len(tokens))

    def _of_other_texts(
        self,
        model: LCLModel,
        batch: MatchingBatch,
        tokens: Tensor,
        everyone: NegativeCandidates,
        negatives: HardNegatives,
    ) -> Tensor:
        """[m, 2] of each image before another's text. How long that is, the device alone knows: rows are padded."""
        texts = everyone.texts.index_select(0, negatives.texts)
        pairs, patches = tokens.shape[:2]
        block = batch.token_ids[: patches + 2].expand(pairs, -1)
        ids = torch.cat((block, texts), dim=1)
        length = ids.shape[1]
        places = torch.arange(pairs * length, device=ids.device).view(pairs, length)
        slots = places[:, 1 : patches + 1].flatten()
        plan = BidirectionalLayout.of_padded(length, everyone.lengths.index_select(0, negatives.texts) + block.shape[1])
        embeddings = model.embed(ids.flatten(), slots, tokens)
        hidden = model.text(embeddings, places.flatten() % length, plan)
        return self._matched(hidden.index_select(0, slots), pairs)

    def _matched(self, outputs: Tensor, rows: int) -> Tensor:
        """Outputs of image tokens [rows * N, D] → logits [rows, 2] of not belonging and belonging together."""
        logits: Tensor = self.matcher(outputs)
        return logits.view(rows, -1, 2).mean(dim=1)

    def flops(self, config: LCLConfig, batch: PackedBatch) -> float:
        return FORWARDS_PER_STEP * flops.blip2_flops(config, batch_workload(config, batch))


def _matching(batch: PackedBatch) -> MatchingBatch:
    assert isinstance(batch, MatchingBatch)
    return batch


def _hash(text: Tensor) -> int:
    return int.from_bytes(hashlib.blake2b(text.numpy().tobytes(), digest_size=8).digest(), "little", signed=True)
