"""TextSide: what an examination needs of a text encoder, whoever made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn


class TextSide(ABC):
    """A text encoder. One that was loaded is frozen, as a :class:`~lcl_core.transfer.tower.Tower` is.

    Attributes:
        identity: what makes its features its own, as of a tower.
    """

    identity: dict[str, str]

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What reads: its parameters are those that learn along."""

    @property
    @abstractmethod
    def width(self) -> int:
        """E, numbers in a text's feature."""

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @abstractmethod
    def features(self, texts: Sequence[str]) -> Tensor:
        """[n, E], not normalised; differentiable. Texts too long for the encoder are cut."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text are read, start and end included."""

    @abstractmethod
    def copy(self) -> Self:
        """One of its own whose :attr:`module` can be trained; this one stays as it is."""
