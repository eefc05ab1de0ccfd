"""The text side of tuned retrieval: a text encoder that learns along, or one that is frozen and read from the cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.features import cached_texts
from lcl_core.transfer.text_side import TextSide


class Reader(ABC):
    """Texts to features [n, E], not normalised.

    Attributes:
        width: E.
        module: what learns along; none where nothing does.
    """

    width: int
    module: nn.Module | None

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Tensor:
        """[n, E], differentiable where something learns."""


class LearningReader(Reader):
    """A copy of the text encoder; the original stays as it is."""

    def __init__(self, side: TextSide) -> None:
        self._side = side.copy()
        self.width, self.module = side.width, self._side.module

    def read(self, texts: Sequence[str]) -> Tensor:
        return self._side.features(texts)


class FrozenReader(Reader):
    """Features that were computed once.

    Args:
        texts: all that will ever be asked for.
        advance: called with the number of texts done.
    """

    module = None

    def __init__(
        self, side: TextSide, texts: Sequence[str], cache: FeatureCache, advance: Callable[[int], None]
    ) -> None:
        self.width, self._device = side.width, side.device
        self._row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}

        @torch.inference_mode()
        def embed(some: Sequence[str]) -> Tensor:
            return F.normalize(side.features(some).float(), dim=-1).cpu()

        self._rows: NDArray[np.float32] = cached_texts(side.identity, embed, list(self._row_of), cache, advance=advance)

    def read(self, texts: Sequence[str]) -> Tensor:
        return torch.from_numpy(self._rows[[self._row_of[text] for text in texts]]).to(self._device)
