"""What the batches of a step offer each other to draw from: hard negatives come from the whole effective batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Offer:
    """Image-text pairs as others may take them. Nothing that is taken carries a gradient back.

    Attributes:
        image_features, text_features: [M, E], L2-normalised.
        patch_tokens: [M, N, D] each image's tokens in a document.
        texts: [M, L] ids of each text and its end, padded with zeros.
        lengths: [M] how many of them are real.
        keys: [M] what the pair's random choices come from.
        texts_hash: [M] equal for equal texts.
    """

    image_features: Tensor
    text_features: Tensor
    patch_tokens: Tensor
    texts: Tensor
    lengths: Tensor
    keys: Tensor
    texts_hash: Tensor

    def detached(self) -> Offer:
        return Offer(**{name: tensor.detach() for name, tensor in self._tensors().items()})

    def widened(self, width: int) -> Offer:
        """With ``width`` columns for the texts."""
        return replace(self, texts=F.pad(self.texts, (0, width - self.texts.shape[1])))

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def joined(offers: Sequence[Offer], width: int) -> Offer:
    """One after the other, the texts padded to ``width`` columns."""
    parts = [offer.detached().widened(width)._tensors() for offer in offers]
    return Offer(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def gathered(offer: Offer, counts: Sequence[int]) -> Offer:
    """Those of all ranks, by rank.

    Args:
        counts: pairs of each rank; known on the host, so that no shape waits for a device.
    """
    if len(counts) == 1:
        return offer
    capacity = max(counts)
    rows = torch.cat([torch.arange(count) + rank * capacity for rank, count in enumerate(counts)])
    rows = rows.to(offer.keys.device, non_blocking=True)
    return Offer(**{name: _gather(x, capacity).index_select(0, rows) for name, x in offer._tensors().items()})


def _gather(x: Tensor, capacity: int) -> Tensor:
    """[m, ...] → [world * capacity, ...], padded with zeros."""
    padded = torch.cat((x, x.new_zeros(capacity - len(x), *x.shape[1:])))
    sent = padded.view(capacity, -1).view(torch.uint8)  # not every backend knows every type
    out = sent.new_empty(dist.get_world_size() * capacity, sent.shape[1])
    dist.all_gather_into_tensor(out, sent)
    return out.view(x.dtype).view(-1, *x.shape[1:])
