"""What the towers of other origins share: how they are loaded, hashed and copied, and learn from pictures."""

from __future__ import annotations

import copy
import hashlib
import random
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core import __version__
from lcl_core.data.transforms import CLIP_MEAN, CLIP_STD
from lcl_core.interop.encoder_schema import loadable
from lcl_core.interop.foreign_text import ForeignTextSide
from lcl_core.interop.layers import count, layers_of
from lcl_core.interop.origins import Origin, hash_of_weights, is_kind
from lcl_core.interop.reading import readable
from lcl_core.specs import AugmentationSpec
from lcl_core.transfer.text_side import TextSide
from lcl_core.transfer.tower import UNTRAINED_SEED, Tower, frozen


class ForeignTower(Tower):
    """An image encoder of another library, in that library's own network and transform.

    A class of it says in :meth:`build` how the library makes them, and in :meth:`see` what the network answers.

    Attributes:
        kind: of :class:`~lcl_core.interop.origins.Origin`.
        library: name and version of what computes.
        network: what looks at pictures.
        mean, deviation: of the transform's normalisation, a number a channel.
        side: S, pixels.
    """

    kind: ClassVar[str]
    library: str
    network: nn.Module
    mean: Sequence[float]
    deviation: Sequence[float]
    side: int

    def __init__(self, directory: Path, origin: Origin, *, trained: bool) -> None:
        self.directory, self.origin = directory, origin
        self._text_side: ForeignTextSide | None = None
        self.build(trained)
        if not trained:
            self.weights_hash = _hash_of_state(self.network)
        frozen(self.network)
        if self._text_side is not None:
            frozen(self._text_side.network)

    @abstractmethod
    def build(self, trained: bool) -> None:
        """Make the network, the transform and, where there is one, the text side.

        Args:
            trained: with the weights that were saved; else with those that the library starts from.
        """

    @abstractmethod
    def see(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """[n, 3, S, S] → pooled latents [n, E] as the library has them (or none), and patch tokens [n, N, W]."""

    @classmethod
    def recognises(cls, directory: Path) -> bool:
        return is_kind(directory, cls.kind)

    @classmethod
    def load(cls, directory: Path) -> Self:
        with readable(directory):
            return cls(directory, loadable(directory), trained=True)

    def untrained(self) -> Self:
        with torch.random.fork_rng(devices=[]), readable(self.directory):
            torch.manual_seed(UNTRAINED_SEED)
            return type(self)(self.directory, self.origin, trained=False)

    def copy(self) -> Self:
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network).requires_grad_(True)
        return twin

    @cached_property
    def _shapes(self) -> tuple[int | None, int, int]:
        """(E, N, W), by asking."""
        with torch.inference_mode():
            pooled, patches = self.see(torch.zeros(1, 3, self.side, self.side, device=self.device))
        return None if pooled is None else pooled.shape[1], patches.shape[1], patches.shape[2]

    @property
    def embed_dim(self) -> int | None:
        return self._shapes[0]

    @property
    def tokens(self) -> int:
        return self._shapes[1]

    @property
    def width(self) -> int:
        return self._shapes[2]

    @property
    def image_size(self) -> int:
        return self.side

    @property
    def module(self) -> nn.Module:
        return self.network

    @property
    def text_side(self) -> TextSide | None:
        if self._text_side is not None and not self._text_side.identity:
            self._text_side.identity = self.identity
        return self._text_side

    @property
    def parameters(self) -> int:
        return count(self.network) + (count(self._text_side.network) if self._text_side else 0)

    @cached_property
    def weights_hash(self) -> str:
        """Of the saved weights, made when it is asked for; who has hashed the files already sets it."""
        return hash_of_weights(self.directory, self.origin.weights)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Weights, the library's and our code, and every setting that lies beside the weights."""
        return {"weights": self.weights_hash, **identity_of(self.directory, self.library)}

    def training_pixels(self, images: Sequence[Image.Image], spec: AugmentationSpec, draw: random.Random) -> Tensor:
        return self.renormalised(super().training_pixels(images, spec, draw))

    def renormalised(self, pixels: Tensor) -> Tensor:
        """Pixels with CLIP's mean and deviation, as our own transforms make them, with this encoder's."""
        levels = pixels * _column(CLIP_STD) + _column(CLIP_MEAN)
        return (levels - _column(self.mean)) / _column(self.deviation)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.see(pixels)[1]

    def look(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        pooled, patches = self.see(pixels)
        return None if pooled is None else F.normalize(pooled.float(), dim=-1), patches

    def layers(self) -> list[list[nn.Parameter]]:
        return layers_of(self.network)


def identity_of(directory: Path, library: str) -> dict[str, str]:
    """What beside the weights makes features what they are."""
    settings = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".txt") and path.is_file():
            settings.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"config": settings.hexdigest(), "library": library, "lcl": __version__}


def as_tokens(features: Tensor) -> Tensor:
    """The places of a feature map [n, W, h, w] as tokens [n, h·w, W], row by row."""
    return features.flatten(2).transpose(1, 2)


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _hash_of_state(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
