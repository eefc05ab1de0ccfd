"""Encoders in memory: base classes of image and text encoders, whatever library made them.

Shapes: n images of side S, N patch tokens of width W, E numbers in a pooled latent.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core.common.device import full_fp32_convolutions, pick_device
from lcl_core.data.transforms import augment
from lcl_core.specs.data import AugmentationSpec

RANDOM_INIT_SEED = 0


class TextEncoder(ABC):
    """A text encoder; frozen when loaded.

    Attributes:
        module: the network; its parameters are those that fine-tuning trains.
        width: E, numbers in a text's feature.
        identity: everything that its features depend on, as of :class:`ImageEncoder`.
    """

    module: nn.Module
    width: int
    identity: dict[str, str]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @abstractmethod
    def features(self, texts: Sequence[str]) -> Tensor:
        """[n, E], not normalised; differentiable. Texts too long for the encoder are cut."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens read of each text, start and end included."""

    @abstractmethod
    def copy(self) -> Self:
        """A copy whose :attr:`module` can be trained; this one stays as it is."""


class ImageEncoder(ABC):
    """An image encoder, with its text encoder where it has one.

    A loaded one is frozen: evaluation mode, fp32, no gradients. An encoder without patch tokens (a CNN) gives the
    positions of its last feature map as tokens.

    Attributes:
        module: the vision network; its parameters are those that full transfer trains.
        embed_dim: E; none where there are no pooled latents.
        tokens, width: N and W.
        image_size: S, pixels.
        weights_hash: sha256 of the weights.
        preprocessing_bytes: memory that ``preprocess`` takes for each pixel of an image, beside the image.
    """

    module: nn.Module
    embed_dim: int | None
    tokens: int
    width: int
    image_size: int
    weights_hash: str
    preprocessing_bytes: ClassVar[int] = (
        16  # other libraries copy the image, as RGB and as arrays, before they shrink it
    )

    @classmethod
    @abstractmethod
    def load(cls, directory: Path, file_hashes: Mapping[str, str] | None = None) -> Self:
        """The saved encoder, frozen, on the GPU when there is one.

        Args:
            file_hashes: sha256 of the directory's files by name, where they are known.

        Raises:
            UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
        """

    @property
    def prepared_bytes(self) -> int:
        """Of one image as ``preprocess`` returns it: f32 [3, S, S]."""
        return 4 * 3 * self.image_size**2

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters of the whole encoder, text encoder included."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Everything that the features depend on: ``weights`` (their hash), settings and versions of the code."""

    @property
    def text_encoder(self) -> TextEncoder | None:
        """Reads texts into the space of the pooled latents; none where the encoder reads none."""
        return None

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move all networks."""
        self.module.to(device)
        if self.text_encoder is not None:
            self.text_encoder.module.to(device)
        return self

    def fold_norms(self) -> Self:
        """Compute images faster where the vision network has batch normalisation; it can't be trained afterwards."""
        return self

    def for_dtype(self, dtype: torch.dtype) -> ImageEncoder:
        """The encoder that computes fastest under autocast to ``dtype``; its results are equal to the bit."""
        return self

    @abstractmethod
    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, 3, S, S] by the encoder's evaluation transform; on the CPU."""

    def training_pixels(self, images: Sequence[Image.Image], spec: AugmentationSpec, draw: random.Random) -> Tensor:
        """[n, 3, S, S] for training, cropped and coloured by ``draw``; on the CPU."""
        return torch.from_numpy(np.stack([augment(image, self.image_size, draw, spec) for image in images]))

    @abstractmethod
    def patches(self, pixels: Tensor) -> Tensor:
        """[n, 3, S, S] → patch tokens [n, N, W]; differentiable."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """[n, 3, S, S] → pooled latents [n, E], L2-normalised (none where the encoder has none), and patch tokens."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Features [n, E] of texts, L2-normalised; none where the encoder reads none."""
        return None if self.text_encoder is None else F.normalize(self.text_encoder.features(texts).float(), dim=-1)

    @abstractmethod
    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters of :attr:`module` by depth, the input's first: full transfer trains the deeper ones faster."""

    @abstractmethod
    def copy(self) -> Self:
        """A copy whose :attr:`module` can be trained; this one stays as it is."""

    @abstractmethod
    def random_init(self) -> Self:
        """The same architecture with its initial weights at a fixed seed; frozen."""

    @cached_property
    def transform(self) -> str:
        """Hash of the transform's output for a fixed image: equal for equal transforms."""
        noise = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
        pixels = self.preprocess([Image.fromarray(noise)])
        return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def freeze(model: nn.Module) -> None:
    """To the GPU of this process where there is one, fp32, evaluation mode, no gradients."""
    device = pick_device()
    full_fp32_convolutions(device)
    model.to(device)
    model.float().eval().requires_grad_(False)


def hash_state_dict(module: nn.Module) -> str:
    """sha256 (hex) of names and values of all weights, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
