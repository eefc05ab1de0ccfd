"""Hard negatives for image-text matching: candidates gathered over the global batch, and one sampled for each pair.

A negative is sampled from all pairs of the step with probability proportional to exp(similarity / temperature), as in
BLIP-2 and ALBEF, by the Gumbel-max trick. The noise between two pairs is a hash of their keys, which come from the seed
and from the pairs' positions in the data: the sample does not depend on how pairs are split into micro-batches and
ranks, nor on earlier samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from lcl_core.ops.contrastive_loss import share_group, similarities


@dataclass(frozen=True)
class NegativeCandidates:
    """Image-text pairs from which the pairs of the global batch draw negatives. No gradient flows back to them.

    Attributes:
        image_features, text_features: [M, E], L2-normalised.
        patch_tokens: [M, N, D] each image's tokens in a document.
        texts: [M, L] ids of each text and its end, padded with zeros.
        lengths: [M] how many of them are real.
        keys: [M] seeds of the pairs' random choices.
        groups: [M] or [M, k] pairs with an equal number are not negatives of each other.
    """

    image_features: Tensor
    text_features: Tensor
    patch_tokens: Tensor
    texts: Tensor
    lengths: Tensor
    keys: Tensor
    groups: Tensor

    def detached(self) -> NegativeCandidates:
        return NegativeCandidates(**{name: tensor.detach() for name, tensor in self._tensors().items()})

    def all_gather(self, counts: Sequence[int]) -> NegativeCandidates:
        """Candidates of all ranks, by rank; texts must have the same number of columns on all.

        Args:
            counts: pairs of each rank; known on the host, so that no shape waits for a device.
        """
        if len(counts) == 1:
            return self
        capacity = max(counts)
        rows = torch.cat([torch.arange(count) + rank * capacity for rank, count in enumerate(counts)])
        rows = rows.to(self.keys.device, non_blocking=True)
        gathered = {name: _all_gather_rows(x, capacity).index_select(0, rows) for name, x in self._tensors().items()}
        return NegativeCandidates(**gathered)

    @staticmethod
    def concatenate(parts: Sequence[NegativeCandidates], text_length: int) -> NegativeCandidates:
        """Candidates of several batches, detached, the texts padded to ``text_length`` columns."""
        padded = [
            replace(part, texts=F.pad(part.texts, (0, text_length - part.texts.shape[1])))._tensors() for part in parts
        ]
        return NegativeCandidates(**{name: torch.cat([part[name] for part in padded]).detach() for name in padded[0]})

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _all_gather_rows(x: Tensor, capacity: int) -> Tensor:
    """[m, ...] → [world * capacity, ...], padded with zeros."""
    padded = torch.cat((x, x.new_zeros(capacity - len(x), *x.shape[1:])))
    sent = padded.view(capacity, -1).view(torch.uint8)  # not every backend knows every type
    out = sent.new_empty(dist.get_world_size() * capacity, sent.shape[1])
    dist.all_gather_into_tensor(out, sent)
    return out.view(x.dtype).view(-1, *x.shape[1:])


_BITS = 24  # of a uniform number
# factors of splitmix64's finaliser, as signed numbers
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


class HardNegatives(NamedTuple):
    """For each pair of a batch, numbers [m] of pairs of the global batch.

    Attributes:
        texts, images: the pair whose text is drawn for its image, and whose image for its text.
        exists: 1 where there is a negative, 0 where all pairs are of one group.
    """

    texts: Tensor
    images: Tensor
    exists: Tensor


@torch.no_grad()
def sample_hard_negatives(
    own: NegativeCandidates, candidates: NegativeCandidates, logit_scale: Tensor
) -> HardNegatives:
    """Sample for the pairs ``own`` [m] among ``candidates`` [M]. A pair of the same group is not a negative."""
    same = share_group(own.groups, candidates.groups)
    scale = logit_scale.exp()
    by_image = similarities(scale * own.image_features.float(), candidates.text_features)
    by_text = similarities(scale * own.text_features.float(), candidates.image_features)
    texts, images = (
        (logits + gumbel_noise(own.keys, candidates.keys, salt)).masked_fill(same, float("-inf")).argmax(dim=1)
        for salt, logits in enumerate((by_image, by_text))
    )
    return HardNegatives(texts, images, (~same).any(dim=1).float())


def gumbel_noise(own: Tensor, others: Tensor, salt: int) -> Tensor:
    """Standard Gumbel noise [m, M], fp32: a function of the keys [m] and [M] and the salt."""
    mixed = _splitmix64(own[:, None] ^ _splitmix64(others + 2 * salt + 1)[None])
    uniform = (_shift_right(mixed, 64 - _BITS).double() + 0.5) / (1 << _BITS)
    return -(-uniform.log()).log().float()


def _splitmix64(x: Tensor) -> Tensor:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: zeros come in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
