"""Protocols of encoders: image encoders and text encoders of any library.

Shapes: n images of side S, N patch tokens of width W, E numbers in a pooled latent.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.data.transforms import augment
from lcl_core.specs.evaluate import DecodingSpec
from lcl_core.specs.pretrain import AugmentationSpec


class TextEncoder(ABC):
    """A text encoder. One that was loaded is frozen, as a :class:`~lcl_core.encoders.base.ImageEncoder` is.

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


RANDOM_INIT_SEED = 0


class ImageEncoder(ABC):
    """An image encoder, and its text encoder where it has one.

    A tower that is loaded is frozen: in evaluation mode, fp32, without gradients. One without patch tokens (a CNN)
    gives the places of its last feature map as tokens.
    """

    @classmethod
    @abstractmethod
    def matches(cls, directory: Path) -> bool:
        """Is this kind of encoder saved there? Looks at names and small files alone."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path) -> Self:
        """The saved encoder, frozen, on the GPU when there is one.

        Raises:
            UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """W."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """N."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """S, pixels."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What looks at pictures: its parameters are those that full transfer trains."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many numbers the whole encoder learnt, its text encoder included."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, str]:
        """What makes the encoder's features its own: ``weights`` (a hash of them), and whatever else they depend on."""

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @abstractmethod
    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, 3, S, S] as the encoder is asked about them; on the CPU."""

    def training_pixels(self, images: Sequence[Image.Image], spec: AugmentationSpec, draw: random.Random) -> Tensor:
        """[n, 3, S, S] as the encoder learns from them, cropped and coloured by ``draw``; on the CPU."""
        return torch.from_numpy(np.stack([augment(image, self.image_size, draw, spec) for image in images]))

    @abstractmethod
    def patches(self, pixels: Tensor) -> Tensor:
        """[n, 3, S, S] → patch tokens [n, N, W]; differentiable."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """[n, 3, S, S] → pooled latents [n, E], L2-normalised (none where the encoder has none), and patch tokens."""

    @property
    @abstractmethod
    def text_encoder(self) -> TextEncoder | None:
        """What reads texts into the space of the pooled latents; none where the encoder reads none."""

    def texts(self, texts: Sequence[str]) -> Tensor | None:
        """Features [n, E] of texts, L2-normalised; none where the encoder reads none."""
        return None if self.text_encoder is None else F.normalize(self.text_encoder.features(texts).float(), dim=-1)

    def captions(self, pixels: Tensor, spec: DecodingSpec, seed: int) -> list[str] | None:
        """What the encoder's own text tower writes of [n, 3, S, S], one text each; none where it writes none."""
        return None

    @property
    @abstractmethod
    def embed_dim(self) -> int | None:
        """E; none where there are no pooled latents."""

    @abstractmethod
    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters of :attr:`module` by depth, the input's first: full transfer trains the deeper ones faster."""

    @abstractmethod
    def copy(self) -> Self:
        """One of its own whose :attr:`module` can be trained; this one stays as it is."""

    @abstractmethod
    def random_init(self) -> Self:
        """The same architecture with the weights that it starts from, at a fixed seed; frozen."""

    @cached_property
    def transform(self) -> str:
        """Hash of what the transform makes of a fixed picture: equal for equal transforms."""
        noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
        pixels = self.preprocess([Image.fromarray(noise)])
        return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def freeze(model: nn.Module) -> None:
    """To the GPU when there is one, fp32, evaluation mode, no gradients."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.float().eval().requires_grad_(False)
