"""Hard negatives: for each image a text that is like it and yet not its own, and for each text such an image.

One is drawn from all pairs of the step with probability proportional to exp(similarity / temperature), as in BLIP-2's
(and ALBEF's) image-text matching. The draw adds noise to the logits and takes the largest (the Gumbel-max trick). The
noise between two pairs is a hash of their keys, which come from the seed and their places in the data: so a draw does
not depend on how pairs are dealt out to micro-batches and ranks, nor on what was drawn before.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lcl_core.objectives.offers import Offer

_BITS = 24  # of a uniform number
# splitmix64's finaliser, its factors as signed numbers
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)


class Negatives(NamedTuple):
    """For each pair of a batch, numbers [m] of pairs of the effective batch.

    Attributes:
        texts, images: whose text is drawn for its image, whose image for its text.
        there: 1 where there was one to draw, 0 where all texts are the same.
    """

    texts: Tensor
    images: Tensor
    there: Tensor


@torch.no_grad()
def draw_negatives(own: Offer, everyone: Offer, logit_scale: Tensor) -> Negatives:
    """Draw for the pairs ``own`` [m] among ``everyone`` [M]. A pair with the same text is no negative."""
    same = own.texts_hash[:, None] == everyone.texts_hash
    scale = logit_scale.exp()
    by_image = scale * own.image_features.float() @ everyone.text_features.float().T
    by_text = scale * own.text_features.float() @ everyone.image_features.float().T
    texts, images = (
        (logits + gumbel(own.keys, everyone.keys, salt)).masked_fill(same, float("-inf")).argmax(dim=1)
        for salt, logits in enumerate((by_image, by_text))
    )
    return Negatives(texts, images, (~same).any(dim=1).float())


def gumbel(own: Tensor, others: Tensor, salt: int) -> Tensor:
    """Standard Gumbel noise [m, M], fp32: a function of the keys [m] and [M] and the salt."""
    mixed = _scramble(own[:, None] ^ _scramble(others + 2 * salt + 1)[None])
    uniform = (_shift(mixed, 64 - _BITS).double() + 0.5) / (1 << _BITS)
    return -(-uniform.log()).log().float()


def _scramble(x: Tensor) -> Tensor:
    """A bijection of 64-bit numbers whose every output bit depends on every input bit."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in from the left: the sign is a bit like any other."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
