"""From prompts and answers to rows of a batch, with a mask of what is to be learnt.

A sequence holds a picture as one place, which a batch widens to its N patch tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PICTURE = -1  # stands in a sequence's ids for a picture


@dataclass(frozen=True)
class Tokens:
    """A text with a picture in it.

    Attributes:
        ids: token ids, and ``PICTURE`` where a picture stands.
        taught: of each id, whether it is to be predicted from what precedes it: answers are, prompts are not.
    """

    ids: tuple[int, ...]
    taught: tuple[bool, ...]

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.taught + other.taught)

    @property
    def pictures(self) -> int:
        return self.ids.count(PICTURE)

    def cut(self, length: int) -> Tokens:
        """The first ``length`` places."""
        return Tokens(self.ids[:length], self.taught[:length])


def tokens(ids: Sequence[int], *, taught: bool = False) -> Tokens:
    """A run of ids that are all to be learnt, or all not."""
    return Tokens(tuple(ids), (taught,) * len(ids))


@dataclass(frozen=True)
class Rows:
    """B sequences as rows of L places.

    Attributes:
        ids: [B, L] token ids; zero where a picture or padding stands.
        slots: [n · N] places of patch tokens in the flattened rows, in order.
        present: [B, L] false where padding stands.
        predicts: [B, L] places whose next token is to be learnt.
        targets: [T] those tokens, row by row.
    """

    ids: Tensor
    slots: Tensor
    present: Tensor
    predicts: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Rows:
        return Rows(*(each.to(device) for each in (self.ids, self.slots, self.present, self.predicts, self.targets)))


def rows_of(sequences: Sequence[Tokens], picture_tokens: int, *, left: bool = False) -> Rows:
    """Rows with ``picture_tokens`` N places for each picture.

    Args:
        left: pad on the left, so that all rows end together, as decoding wants it; else on the right, where causal
            attention never looks, so that no mask is needed.
    """
    wide = [_widened(each, picture_tokens) for each in sequences]
    length = max(len(ids) for ids, _ in wide)
    ids = torch.full((len(wide), length), 0)
    taught = torch.zeros(ids.shape, dtype=torch.bool)
    present = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (values, learnt) in enumerate(wide):
        place = slice(length - len(values), length) if left else slice(len(values))
        ids[row, place], taught[row, place], present[row, place] = values, learnt, True
    slots = (ids == PICTURE).flatten().nonzero().flatten()
    predicts = taught.roll(-1, dims=1)
    predicts[:, -1] = False
    taught[:, 0] = False  # nothing precedes the first place
    return Rows(ids.clamp(min=0), slots, present, predicts, ids[taught])


def _widened(sequence: Tokens, picture_tokens: int) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(sequence.ids)
    times = torch.where(ids == PICTURE, picture_tokens, 1)
    return ids.repeat_interleave(times), torch.tensor(sequence.taught).repeat_interleave(times)
