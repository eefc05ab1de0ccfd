"""Frozen features of images and texts: the encoder under evaluation, and the feature cache on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lcl_core.common.disk_cache import FolderCache, no_progress
from lcl_core.common.errors import UserError
from lcl_core.common.processes import prefetch_map, usable_cores
from lcl_core.data import Corpus
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import TEXTS, detect_image_encoder

Arrays = Mapping[str, NDArray[np.floating]]
Heartbeat = Callable[[], None]

_CACHE_VERSION = 2  # of an entry's layout and of the meaning of its numbers
_MAX_SHARE = 0.5  # of the cache that the patch features of one split may fill
_IMAGE_BATCH = 64
FP16_BYTES = 2
_TEXT_BATCH = 256


@dataclass(frozen=True)
class EvaluatedEncoder:
    """A frozen encoder in its role, ``trained`` or ``untrained``."""

    role: str
    model: ImageEncoder

    @property
    def weights_hash(self) -> str:
        return self.model.identity["weights"]

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> tuple[Tensor | None, Tensor]:
        """Pooled latents [n, E] (L2-normalised; None where the encoder has none) and patch features [n, N, W]."""
        pooled, patches = self.model.encode(self.model.preprocess(images).to(self.model.device))
        return None if pooled is None else pooled.cpu(), patches.float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Features [n, E], L2-normalised."""
        features = self.model.encode_texts(texts)
        assert features is not None, "the plan has checked that this encoder reads texts"
        return features.cpu()


def check_reads_texts(directory: Path) -> None:
    """Check that the saved encoder reads texts, too. Loads nothing."""
    if TEXTS not in detect_image_encoder(directory).reads:
        raise UserError(
            "this encoder reads no texts; leave out the tasks that compare images with texts without training",
            code="no_text_encoder", field="tasks",
        )  # fmt: skip


class FeatureCache:
    """Folders of ``.npy`` files in a ``FolderCache``, named by the hash of everything that the numbers depend on.

    Arrays that a caller still has mapped stay readable after the eviction of their entry.
    """

    def __init__(self, root: Path, max_bytes: int = 20 * 2**30) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._cache = FolderCache(root, max_bytes)

    def get_or_make(
        self,
        key: Mapping[str, Any],
        make: Callable[[Path], None],
        size: int = 0,
        progress: Callable[[], None] = no_progress,
    ) -> Arrays:
        """The arrays of an entry, memory-mapped and read-only.

        Args:
            key: JSON values that the numbers depend on.
            make: writes ``NAME.npy`` files into a folder; called on a miss only.
            size: bytes that ``make`` is going to write, if known: room is made before.
        """
        name = _hash({"layout": _CACHE_VERSION, **key})
        with self._cache.open(name, make, size, progress) as entry:
            files = sorted(entry.glob("*.npy"))
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}


class ImageFeatures(NamedTuple):
    """Features of n images.

    Attributes:
        pooled: [n, E] float32 pooled latents, L2-normalised; None where the encoder has none.
        patches: [n, N, W] float16 patch features; None unless requested.
    """

    pooled: NDArray[np.float32] | None
    patches: NDArray[np.float16] | None


def patch_features_fit(encoder: EvaluatedEncoder, count: int, cache: FeatureCache) -> bool:
    """Whether the patch features of ``count`` images leave room for others in the cache."""
    model = encoder.model
    return count * model.tokens * model.width * FP16_BYTES <= cache.max_bytes * _MAX_SHARE


def image_features(
    encoder: EvaluatedEncoder,
    corpus: Corpus,
    names: Sequence[str],
    cache: FeatureCache,
    *,
    patches: bool,
    heartbeat: Heartbeat,
) -> ImageFeatures:
    """Features of the images ``names`` of ``corpus``.

    Patch features are stored in half precision: the encoder's layer norm leaves them near one, so three digits remain.
    A head sees the same numbers whether they come from the cache or not.

    Args:
        patches: also compute patch features, N·W numbers an image.
    """
    model = encoder.model
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {}
    if model.embed_dim is not None:
        shapes["pooled"] = np.float32, (len(names), model.embed_dim)
    if patches:
        shapes["patches"] = np.float16, (len(names), model.tokens, model.width)
    size = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in shapes.values())
    key = {
        "kind": "images", "patches": patches, "encoder": model.identity, "transform": model.transform,
        "corpus": corpus.content_hash(), "images": _hash(names),
    }  # fmt: skip

    def make(folder: Path) -> None:
        images = prefetch_map(corpus.read_image, names, threads=max(corpus.concurrent_reads, min(8, usable_cores())))
        with ExitStack() as opened:
            files = {name: opened.enter_context((folder / f"{name}.npy").open("wb")) for name in shapes}
            for name, (dtype, shape) in shapes.items():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(files[name], header)
            while batch := list(islice(images, _IMAGE_BATCH)):
                found = dict(zip(("pooled", "patches"), encoder.embed_images(batch), strict=True))
                for name, (dtype, _) in shapes.items():
                    values = found[name]
                    assert values is not None
                    files[name].write(check_finite(values.numpy().astype(dtype)).tobytes())
                heartbeat()

    arrays = cache.get_or_make(key, make, size, heartbeat)
    return ImageFeatures(arrays.get("pooled"), arrays.get("patches"))


def text_features(
    identity: Mapping[str, str],
    embed: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    cache: FeatureCache,
    *,
    heartbeat: Heartbeat,
) -> NDArray[np.float32]:
    """[n, E] features of ``texts``, memory-mapped.

    Args:
        identity: of the text encoder.
        embed: texts → features on the CPU.
    """

    def make(folder: Path) -> None:
        parts = []
        for start in range(0, len(texts), _TEXT_BATCH):
            batch = texts[start : start + _TEXT_BATCH]
            parts.append(check_finite(embed(batch).numpy()))
            heartbeat()
        np.save(folder / "texts.npy", np.concatenate(parts).astype(np.float32))

    key = {"kind": "texts", "encoder": dict(identity), "texts": _hash(texts)}
    arrays = cache.get_or_make(key, make, progress=heartbeat)
    return np.asarray(arrays["texts"], np.float32)


def check_finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """``values``; an error when some are infinite or NaN."""
    if not np.isfinite(values).all():
        raise UserError(
            "the encoder gives infinities or NaN; its training diverged (lower optimizer.lr and train again)",
            code="encoder_unreadable", field="encoder",
        )  # fmt: skip
    return values


def _hash(value: Any) -> str:
    """Of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
