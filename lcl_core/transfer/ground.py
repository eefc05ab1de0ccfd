"""On what a head stands: on frozen features, or on an encoder that learns along with it.

The paper's two protocols: frozen transfer trains what is added alone, full transfer the encoder too.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lcl_core.data import Corpus
from lcl_core.specs import AugmentationSpec
from lcl_core.transfer.gallery import Picture
from lcl_core.transfer.ranking import Ints
from lcl_core.transfer.tower import Tower

if TYPE_CHECKING:
    from lcl_core.transfer.encoder import ExamEncoder
    from lcl_core.transfer.tasks.base import Room

_HALF_BYTES = 2
_LARGEST_SHARE = 0.5  # of the cache that the features of one split may take


class View(ABC):
    """The pictures of a split as a head sees them, in two steps: loading, which threads may do ahead, and looking.

    Attributes:
        at_once: how many to ask about at a time.
        threads: that load ahead; none: as many as there are cores.
    """

    at_once: int
    threads: int | None = None

    @abstractmethod
    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        """What is needed of the pictures ``rows``, on the CPU; with ``draw`` as they are learnt from."""

    @abstractmethod
    def tokens(self, loaded: Tensor) -> Tensor:
        """Patch tokens [B, N, W] of what was loaded, on the device of the head."""


class Ground(ABC):
    """One encoder in one protocol.

    Attributes:
        width: W of the patch tokens.
        device: where heads are to be trained.
        tower: the encoder that learns along, a copy; none where it is frozen.
        precision: what heads are trained in; none: what their spec says.
    """

    width: int
    device: torch.device
    tower: Tower | None
    precision: Literal["fp32"] | None

    @abstractmethod
    def view(self, split: str, pictures: list[Picture], corpus: Corpus | None = None) -> View:
        """The pictures of a split; of another corpus than the room's where one is given."""


class FrozenGround(Ground):
    """Cached features, in half precision; heads on them are cheap and are trained in fp32.

    Features that would crowd everything else out of the cache (patches of a million pictures) are computed each time
    they are needed; heads see the same numbers.
    """

    tower = None
    precision = "fp32"

    def __init__(self, room: Room, encoder: ExamEncoder, augmentation: AugmentationSpec) -> None:
        self.width, self.device = encoder.tower.width, encoder.tower.device
        self._room, self._encoder = room, encoder

    def view(self, split: str, pictures: list[Picture], corpus: Corpus | None = None) -> View:
        tower = self._encoder.tower
        if len(pictures) * tower.tokens * tower.width * _HALF_BYTES > self._room.cache.max_bytes * _LARGEST_SHARE:
            names = [picture.image for picture in pictures]
            return FrozenPictureView(tower, corpus or self._room.corpus, names)
        patches = self._room.look(self._encoder, split, pictures, corpus).patches
        assert patches is not None, "a task that stands on frozen features wants patches"
        return FeatureView(patches, self.device)


class FullGround(Ground):
    """A copy of the encoder that learns from augmented pictures; the original stays as it is."""

    precision = None

    def __init__(self, room: Room, encoder: ExamEncoder, augmentation: AugmentationSpec) -> None:
        self.tower: Tower = encoder.tower.copy()
        self.width, self.device = self.tower.width, self.tower.device
        self._corpus, self._augmentation = room.corpus, augmentation

    def view(self, split: str, pictures: list[Picture], corpus: Corpus | None = None) -> View:
        names = [picture.image for picture in pictures]
        return PictureView(self.tower, corpus or self._corpus, names, self._augmentation)


class FeatureView(View):
    """Rows of a (memory-mapped) array of patch features [n, N, W]."""

    at_once = 1024
    threads = 0  # a copy of numbers is not worth a thread

    def __init__(self, patches: NDArray[np.float16], device: torch.device) -> None:
        self._patches, self._device = patches, device

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        return torch.from_numpy(self._patches[rows])

    def tokens(self, loaded: Tensor) -> Tensor:
        return loaded.to(self._device).float()


class PictureView(View):
    """Pictures of a corpus, looked at by an encoder that may have learnt meanwhile."""

    at_once = 64

    def __init__(self, tower: Tower, corpus: Corpus, names: Sequence[str], augmentation: AugmentationSpec) -> None:
        self._tower, self._corpus, self._names, self._augmentation = tower, corpus, names, augmentation

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        images = [self._corpus.read_image(self._names[row]) for row in rows]
        if draw is None:
            return self._tower.preprocess(images)
        return self._tower.training_pixels(images, self._augmentation, draw)

    def tokens(self, loaded: Tensor) -> Tensor:
        return self._tower.patches(loaded.to(self._tower.device))


class FrozenPictureView(PictureView):
    """Frozen features without a cache: never augmented, rounded as cached ones are."""

    def __init__(self, tower: Tower, corpus: Corpus, names: Sequence[str]) -> None:
        super().__init__(tower, corpus, names, AugmentationSpec())

    def load(self, rows: Ints, draw: random.Random | None = None) -> Tensor:
        return super().load(rows)

    @torch.no_grad()
    def tokens(self, loaded: Tensor) -> Tensor:
        return super().tokens(loaded).half().float()


GROUNDS: dict[str, type[FrozenGround] | type[FullGround]] = {"frozen": FrozenGround, "full": FullGround}
