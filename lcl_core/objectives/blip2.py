"""Contrastive, captioning and matching: BLIP-2's first stage (arXiv 2301.12597, section 3.2).

L = L_con + L_cap + L_mat. The first two are CoCa's (:mod:`.clip`). L_mat is a two-class cross-entropy: do an image and
a text belong together? Each pair (i, t) is scored three times, as itself, as (i, t') and as (i', t), with a hard
negative text t' and image i' (:mod:`.hard_negatives`), in a third pass of the text tower with full attention over
``<soi> img x N <eoi> text eot``. A linear head reads every image token's output, and their logits are averaged, as
BLIP-2 averages those of its queries. L_mat is a mean over all three kinds of all pairs.

Negatives are sampled from all pairs of the step, on all ranks and in all micro-batches, so the step equals that of the
one global batch. A negative text is sent to its image as ids, a negative image to its text as patch tokens without
gradient, which would have to be sent back between ranks and micro-batches. In BLIP-2 itself the image encoder is frozen
and gets no gradient; here it learns from (i, t) and (i, t'), the text tower and the head from all three. A pair with
the same text, or an image of the same concept, is not a negative. If a step has no negative, only the pair itself
counts.

For this each rank holds the tokens of all images of the step: images x N x D numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from lcl_core.estimate.flops import Workload
from lcl_core.model.configuration_lcl import LCLConfig
from lcl_core.model.modeling_lcl import LCLModel
from lcl_core.model.packed_batch import PackedBatch
from lcl_core.objectives.base import BatchLosses, EncodedBatch, GlobalBatch, MeanMetric, SummedLoss
from lcl_core.objectives.clip import Coca
from lcl_core.objectives.hard_negatives import HardNegatives, NegativeCandidates, sample_hard_negatives
from lcl_core.ops.attention import BidirectionalLayout
from lcl_core.specs.pretrain import MethodName, ObjectiveSpec


@dataclass(frozen=True, kw_only=True)
class MatchingBatch(PackedBatch):
    """Pairs whose texts are candidates for hard negatives.

    Attributes:
        doubled: layout of the caption rows, all of them twice.
        texts: [m, L] ids of each caption and its end, padded with zeros.
        text_lengths: [m] how many of them are real.
        keys: [m] seeds of the pairs' random choices.
    """

    doubled: BidirectionalLayout
    texts: Tensor
    text_lengths: Tensor
    keys: Tensor


class Blip2(Coca):
    name: ClassVar[MethodName] = "blip2"

    def __init__(self, spec: ObjectiveSpec, width: int) -> None:
        super().__init__(spec.weights, spec)
        self.matcher = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    @classmethod
    def build(cls, config: LCLConfig, spec: ObjectiveSpec) -> Self:
        return cls(spec, config.text_width)

    def collate(
        self,
        rows: Sequence[Tensor],
        pixel_values: Tensor,
        config: LCLConfig,
        keys: Sequence[int] | None = None,
    ) -> MatchingBatch:
        batch = super().collate(rows, pixel_values, config, keys)
        lengths = list(batch.lengths[: len(rows)])
        block = 2 + len(batch.image_slots) // len(rows)
        texts = [row[block:] for row in batch.token_ids[: sum(lengths)].split(lengths)]
        numbers = np.array(range(len(rows)) if keys is None else keys, np.uint64).view(np.int64)
        return MatchingBatch(
            **{field.name: getattr(batch, field.name) for field in fields(batch)},
            doubled=BidirectionalLayout.from_lengths(lengths * 2),
            texts=pad_sequence(texts, batch_first=True),
            text_lengths=torch.tensor([len(text) for text in texts]),
            keys=torch.from_numpy(numbers),
        )

    def counts(self, batch: PackedBatch) -> Mapping[str, int]:
        return {**super().counts(batch), "matching": 3 * len(batch.pixel_values)}

    def workload(self, config: LCLConfig, batch: PackedBatch) -> Workload:
        captions = batch.lengths[: len(batch.pixel_values)]
        # a negative text counts as long as the image's own
        return replace(super().workload(config, batch), matched=captions * 3)

    def max_text_length(self, batch: PackedBatch) -> int:
        assert isinstance(batch, MatchingBatch)
        return batch.texts.shape[1]

    def encode(self, model: LCLModel, batch: PackedBatch) -> EncodedBatch:
        assert isinstance(batch, MatchingBatch)
        encoded = super().encode(model, batch)
        pairs, tokens = encoded.pairs, encoded.activations.patch_tokens
        assert pairs is not None
        assert tokens is not None
        texts = batch.texts, batch.text_lengths, batch.keys, batch.pair_identities
        candidates = NegativeCandidates(pairs.image_features, pairs.text_features, tokens, *texts)
        return replace(encoded, candidates=candidates.detached())

    def losses(
        self, model: LCLModel, batch: PackedBatch, encoded: EncodedBatch, global_batch: GlobalBatch
    ) -> BatchLosses:
        captioning = super().losses(model, batch, encoded, global_batch)
        own, tokens = encoded.candidates, encoded.activations.patch_tokens
        assert isinstance(batch, MatchingBatch)
        assert own is not None
        assert tokens is not None
        candidates = global_batch.gather(own)
        negatives = sample_hard_negatives(own, candidates, model.logit_scale.detach())
        negative_tokens = candidates.patch_tokens.index_select(0, negatives.images)
        logits = torch.cat(
            (
                self._logits_of_own_texts(model, batch, torch.cat((tokens, negative_tokens))),
                self._logits_of_negative_texts(model, batch, tokens, candidates, negatives),
            )
        )
        exists = torch.cat((torch.ones_like(negatives.exists), negatives.exists, negatives.exists))
        matched = torch.zeros_like(exists, dtype=torch.long)
        matched[: len(tokens)] = 1
        total = (F.cross_entropy(logits.float(), matched, reduction="none") * exists).sum()
        correct = (logits.detach().argmax(dim=1) == matched) * exists
        matching = SummedLoss(total, self.weights["matching"])
        accuracy = MeanMetric(correct.sum(), exists.sum())
        return BatchLosses({**captioning.sums, "matching": matching}, {"matching_accuracy": accuracy})

    def _logits_of_own_texts(self, model: LCLModel, batch: MatchingBatch, tokens: Tensor) -> Tensor:
        """[2m, 2] of each caption behind its image, then its negative image. ``tokens``: [2m, N, D] of these."""
        end = len(batch.token_ids) - sum(batch.lengths[len(batch.texts) :])
        slots = torch.cat((batch.image_slots, batch.image_slots + end))
        embeddings = model.embed_tokens(batch.token_ids[:end].repeat(2), slots, tokens)
        hidden = model.text(embeddings, batch.positions[:end].repeat(2), batch.doubled)
        return self._match_logits(hidden.index_select(0, slots), len(tokens))

    def _logits_of_negative_texts(
        self,
        model: LCLModel,
        batch: MatchingBatch,
        tokens: Tensor,
        candidates: NegativeCandidates,
        negatives: HardNegatives,
    ) -> Tensor:
        """[m, 2] of each image before its negative text."""
        texts = candidates.texts.index_select(0, negatives.texts)
        pairs, patches = tokens.shape[:2]
        block = batch.token_ids[: patches + 2].expand(pairs, -1)
        lengths = candidates.lengths.index_select(0, negatives.texts) + block.shape[1]
        rows = _concatenate_rows(torch.cat((block, texts), dim=1), lengths, packed=texts.device.type == "cpu")
        slots = (rows.starts[:, None] + torch.arange(1, patches + 1, device=texts.device)).flatten()
        embeddings = model.embed_tokens(rows.ids, slots, tokens)
        hidden = model.text(embeddings, rows.positions, rows.layout)
        return self._match_logits(hidden.index_select(0, slots), pairs)

    def _match_logits(self, outputs: Tensor, rows: int) -> Tensor:
        """Outputs of image tokens [rows * N, D] → logits [rows, 2] of not belonging and belonging together."""
        logits: Tensor = self.matcher(outputs)
        return logits.view(rows, -1, 2).mean(dim=1)


class _TokenRows(NamedTuple):
    """Rows of tokens end to end.

    Attributes:
        ids, positions: [T] of the tokens, and the position of each in its row.
        starts: [m] index of the first token of each row.
        layout: of the rows, each of which sees itself alone.
    """

    ids: Tensor
    positions: Tensor
    starts: Tensor
    layout: BidirectionalLayout


def _concatenate_rows(ids: Tensor, lengths: Tensor, *, packed: bool) -> _TokenRows:
    """Rows ``ids`` [m, L], of which the first ``lengths`` [m] tokens are real.

    Args:
        packed: leave the padding out, which needs the lengths on the host: on a GPU that would wait for the device.
    """
    count, length = ids.shape
    positions = torch.arange(length, device=ids.device).expand(count, length)
    if packed:
        real = positions < lengths[:, None]
        layout = BidirectionalLayout.from_lengths(lengths.tolist())
        return _TokenRows(ids[real], positions[real], lengths.cumsum(0) - lengths, layout)
    starts = torch.arange(count, device=ids.device) * length
    layout = BidirectionalLayout.from_padded(length, lengths)
    return _TokenRows(ids.flatten(), positions.flatten(), starts, layout)
