"""Encoders in memory: base classes of image and text encoders, whatever library made them, and of other libraries'.

Shapes: n images of side S, N patch tokens of width W, E numbers in a pooled latent.
"""

from __future__ import annotations

import copy
import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lcl_core import __version__
from lcl_core.common.device import full_fp32_convolutions, pick_device
from lcl_core.common.errors import UserError
from lcl_core.data.transforms import augment
from lcl_core.encoders import files
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.files import Hashes, combined_weights_hash, hash_weights, tensor_shapes
from lcl_core.encoders.registry import EncoderFormat
from lcl_core.specs.data import CLIP_MEAN, CLIP_STD, AugmentationSpec, Fit

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
        fit: how images become square.
        weights_hash: sha256 of the weights.
    """

    module: nn.Module
    embed_dim: int | None
    tokens: int
    width: int
    image_size: int
    fit: Fit = "crop"
    weights_hash: str

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
        return torch.from_numpy(np.stack([augment(image, self.image_size, draw, spec, self.fit) for image in images]))

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


@contextmanager
def wrap_load_errors(directory: Path) -> Iterator[None]:
    """What goes wrong inside becomes a UserError ``encoder_unreadable`` that names the directory."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library raises its own
        reason = str(error).strip().partition("\n")[0][:300]
        raise unreadable(directory, f"{type(error).__name__}: {reason}") from error


def unreadable(directory: Path, reason: str) -> UserError:
    return files.unreadable(directory, f"the encoder cannot be read ({reason}); save it again with its library")


def tensor_names(directory: Path, origin: EncoderFormat) -> set[str]:
    """Names of all tensors of the weights, from the files' headers."""
    return {name for file in origin.weights for name in tensor_shapes(directory / file)}


def check_all_loaded(directory: Path, missing: Sequence[str]) -> None:
    """Raises: UserError when the weights lack some of the network's names, which a library would fill with noise."""
    if missing:
        raise unreadable(directory, f"the weights lack {len(missing)} of the names, the first is {sorted(missing)[0]}")


def check_token_ids(directory: Path, tokenizer: Any, rows: int) -> None:
    """Raises: UserError when a tokenizer, ready to be used, makes an id that is no row of the token embeddings."""
    if (highest := max(vocabulary_of(tokenizer).values(), default=0)) >= rows:
        raise unreadable(directory, f"its tokenizer makes the id {highest}, and there are {rows} token embeddings")


def vocabulary_of(tokenizer: Any) -> dict[str, int]:
    """{token: id} of a library's tokenizer, tokens as it writes them."""
    words = getattr(tokenizer, "tokenizer", tokenizer)  # OpenCLIP wraps those of transformers
    return dict(words.get_vocab() if hasattr(words, "get_vocab") else words.encoder)


def square_side(directory: Path, size: int | Sequence[int]) -> int:
    """The side of the images that an encoder takes. Raises: UserError where they are not square."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise unreadable(directory, f"it takes images of {height} x {width}, and only square ones can be given")
    return height


_BLOCK_LISTS = (nn.ModuleList, nn.Sequential)
_MIN_BLOCK_SHARE = 0.5  # share of the parameters from which on a list of blocks is the network's depth


def parameter_groups(module: nn.Module, blocks: Sequence[nn.Module] = ()) -> list[list[nn.Parameter]]:
    """Parameters in groups, the input's first: what comes before the blocks, each block, what comes after.

    The blocks are those of the lists of modules that lie side by side and hold at least half of the parameters (a ViT
    has one such list, a ResNet four); a network without any is cut into its children. Parameters stand in the order in
    which the network registers them.

    Args:
        blocks: the network's depth, where it is known.
    """
    blocks = blocks or _blocks(module)
    depth_of = {id(parameter): depth for depth, block in enumerate(blocks, 1) for parameter in block.parameters()}
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    deepest = 0
    for parameter in module.parameters():
        deepest = max(deepest, depth_of.get(id(parameter), 0))
        groups[depth_of.get(id(parameter), len(blocks) + 1 if deepest else 0)].append(parameter)
    return [group for group in groups if group]


def _blocks(module: nn.Module) -> list[nn.Module]:
    side_by_side = [
        [child for child in each.children() if isinstance(child, _BLOCK_LISTS)]
        for each in module.modules()
        if not isinstance(each, _BLOCK_LISTS)  # a list within a list is a block
    ]
    enough = _MIN_BLOCK_SHARE * count_parameters(module)
    found = [
        [block for each in lists for block in each]
        for lists in side_by_side
        if sum(map(count_parameters, lists)) >= enough
    ]
    return max(found, key=len, default=[]) or [child for child in module.children() if count_parameters(child)]


def count_parameters(module: nn.Module) -> int:
    """Numbers in its parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class ExternalTextEncoder(TextEncoder):
    """A text encoder in the network of another library; a class of it says in ``features`` what that answers.

    ``identity`` is set by whoever knows the weights.
    """

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        self.module, self.tokenizer = network, tokenizer
        self.identity = {}

    @property
    def vocabulary(self) -> dict[str, int]:
        """{token: row of the token embeddings}."""
        return vocabulary_of(self.tokenizer)

    @cached_property
    def width(self) -> int:  # type: ignore[override]
        with torch.inference_mode():
            return self.features(["a"]).shape[1]

    def copy(self) -> Self:
        trainable = copy.copy(self)
        trainable.module = copy.deepcopy(self.module).requires_grad_(True)
        return trainable


class ExternalImageEncoder(ImageEncoder):
    """An image encoder of another library, in that library's own network and transform.

    A class of it says in :meth:`build` how the library makes them, and in :meth:`outputs` what the network answers.

    Attributes:
        kind: of :class:`~lcl_core.encoders.registry.EncoderFormat`.
        library: its name and version.
        transform_image: the library's evaluation transform of one image.
        mean, deviation: of the transform's normalisation, one number a channel.
    """

    kind: ClassVar[str]
    library: str
    transform_image: Callable[[Image.Image], Tensor]
    mean: Sequence[float]
    deviation: Sequence[float]

    def __init__(self, directory: Path, origin: EncoderFormat, *, trained: bool) -> None:
        self.directory, self.origin = directory, origin
        self._text_encoder: ExternalTextEncoder | None = None
        self.build(trained)
        if not trained:
            self.weights_hash = hash_state_dict(self.module)
        freeze(self.module)
        if self._text_encoder is not None:
            freeze(self._text_encoder.module)
        with torch.inference_mode():
            size = self.image_size
            pooled, patches = self.outputs(torch.zeros(1, 3, size, size, device=self.device))
        self.embed_dim = None if pooled is None else pooled.shape[1]
        self.tokens, self.width = patches.shape[1:]

    @abstractmethod
    def build(self, trained: bool) -> None:
        """Build ``module``, the transform with its ``image_size`` and, where there is one, the text encoder.

        Args:
            trained: with the saved weights; else with the library's initial ones.
        """

    @abstractmethod
    def outputs(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """[n, 3, S, S] → pooled latents [n, E] as the library has them (or none), and patch tokens [n, N, W]."""

    @classmethod
    def load(cls, directory: Path, file_hashes: Hashes | None = None) -> Self:
        with wrap_load_errors(directory):
            found = cls(directory, check_encoder(directory), trained=True)
        if file_hashes:
            found.weights_hash = combined_weights_hash(file_hashes, found.origin.weights)
        return found

    def random_init(self) -> Self:
        with torch.random.fork_rng(devices=[]), wrap_load_errors(self.directory):
            torch.manual_seed(RANDOM_INIT_SEED)
            return type(self)(self.directory, self.origin, trained=False)

    def copy(self) -> Self:
        trainable = copy.copy(self)
        trainable.module = copy.deepcopy(self.module).requires_grad_(True)
        return trainable

    @property
    def text_encoder(self) -> TextEncoder | None:
        if self._text_encoder is not None and not self._text_encoder.identity:
            self._text_encoder.identity = self.identity
        return self._text_encoder

    @property
    def parameters(self) -> int:
        return count_parameters(self.module) + (
            count_parameters(self._text_encoder.module) if self._text_encoder else 0
        )

    @cached_property
    def weights_hash(self) -> str:  # type: ignore[override]
        """Of the saved weights; computed at first use, unless ``load`` was given the hashes of the files."""
        return hash_weights(self.directory, self.origin.weights)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Weights, the library's and our code, and every setting that lies beside the weights."""
        return {"weights": self.weights_hash, **settings_identity(self.directory, self.library)}

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = [self.transform_image(image) for image in images]
        return torch.stack(pixels) if pixels else torch.empty(0, 3, self.image_size, self.image_size)

    def training_pixels(self, images: Sequence[Image.Image], spec: AugmentationSpec, draw: random.Random) -> Tensor:
        return self.renormalised(super().training_pixels(images, spec, draw))

    def renormalised(self, pixels: Tensor) -> Tensor:
        """Pixels with CLIP's mean and deviation, as our own transforms make them, with this encoder's."""
        levels = pixels * _per_channel(CLIP_STD, pixels) + _per_channel(CLIP_MEAN, pixels)
        return (levels - _per_channel(self.mean, pixels)) / _per_channel(self.deviation, pixels)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)[1]

    def encode(self, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        pooled, patches = self.outputs(pixels)
        return None if pooled is None else F.normalize(pooled.float(), dim=-1), patches

    def layers(self) -> list[list[nn.Parameter]]:
        return parameter_groups(self.module)


def settings_identity(directory: Path, library: str) -> dict[str, str]:
    """Everything beside the weights that features depend on."""
    settings = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".txt") and path.is_file():
            settings.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"config": settings.hexdigest(), "library": library, "lcl": __version__}


def feature_map_to_tokens(features: Tensor) -> Tensor:
    """The positions of a feature map [n, W, h, w] as tokens [n, h·w, W], row by row."""
    return features.flatten(2).transpose(1, 2)


def _per_channel(values: Sequence[float], pixels: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None]
