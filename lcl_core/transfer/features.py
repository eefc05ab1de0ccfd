"""Frozen features of pictures and texts, through the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lcl_core.data import Corpus
from lcl_core.errors import UserError
from lcl_core.transfer.cache import FeatureCache
from lcl_core.transfer.encoder import ExamEncoder

Advance = Callable[[int], None]

_IMAGES_AT_ONCE = 64
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class ImageFeatures:
    """Row i is picture i.

    Attributes:
        pooled: [n, E] float32 pooled latents, L2-normalised; none where the encoder has none.
        patches: [n, N, W] float16 patch features, or none if they were not asked for.
    """

    pooled: NDArray[np.float32] | None
    patches: NDArray[np.float16] | None


def image_features(
    encoder: ExamEncoder,
    corpus: Corpus,
    names: Sequence[str],
    cache: FeatureCache,
    *,
    patches: bool,
    advance: Advance,
) -> ImageFeatures:
    """Features of the pictures ``names`` of ``corpus``.

    Patch features are kept in half precision: their layer norm leaves them near one, so three digits are kept
    at half the disk. Used from the cache or not, a head sees the same numbers.

    Args:
        patches: also the patch features, which are N·W numbers a picture.
        advance: called with the number of pictures done.

    Raises:
        UserError: a picture cannot be read (names it), or the encoder gives infinities.
    """
    tower = encoder.tower
    facts = {
        "kind": "images", "patches": patches, "encoder": tower.identity, "transform": tower.transform,
        "corpus": corpus.content_hash(), "images": _digest(names),
    }  # fmt: skip
    meter = _Meter(advance)

    def make(folder: Path) -> None:
        pooled = tokens = None
        if tower.embed_dim is not None:
            pooled = _new(folder / "pooled.npy", np.float32, (len(names), tower.embed_dim))
        if patches:
            tokens = _new(folder / "patches.npy", np.float16, (len(names), tower.tokens, tower.width))
        for start in range(0, len(names), _IMAGES_AT_ONCE):
            batch = names[start : start + _IMAGES_AT_ONCE]
            rows = slice(start, start + len(batch))
            latents, grid = encoder.embed_images([corpus.read_image(name) for name in batch])
            if pooled is not None and latents is not None:
                pooled[rows] = finite(latents.numpy())
            if tokens is not None:
                tokens[rows] = finite(grid.half().numpy())
            meter.add(len(batch))

    arrays = cache.get_or_make(facts, make)
    meter.finish(len(names))
    return ImageFeatures(arrays.get("pooled"), arrays.get("patches"))


def text_features(
    encoder: ExamEncoder, texts: Sequence[str], cache: FeatureCache, *, advance: Advance
) -> NDArray[np.float32]:
    """[n, E] features of ``texts``.

    Raises:
        UserError: the encoder reads no texts, or gives infinities.
    """
    return cached_texts(encoder.tower.identity, encoder.embed_texts, texts, cache, advance=advance)


def cached_texts(
    identity: Mapping[str, str],
    embed: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    cache: FeatureCache,
    *,
    advance: Advance,
) -> NDArray[np.float32]:
    """[n, E] features of ``texts``, memory-mapped.

    Args:
        identity: what makes them features of this text encoder.
        embed: some texts → their features on the CPU.

    Raises:
        UserError: the features are infinities.
    """
    facts = {"kind": "texts", "encoder": dict(identity), "texts": _digest(map(json.dumps, texts))}
    meter = _Meter(advance)

    def make(folder: Path) -> None:
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = texts[start : start + _TEXTS_AT_ONCE]
            parts.append(finite(embed(batch).numpy()))
            meter.add(len(batch))
        np.save(folder / "texts.npy", np.concatenate(parts).astype(np.float32))

    arrays = cache.get_or_make(facts, make)
    meter.finish(len(texts))
    return np.asarray(arrays["texts"], np.float32)


class _Meter:
    """Tells progress as work is done, and the rest of it at once when the cache already had the answer."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._advance(count)

    def finish(self, total: int) -> None:
        self.add(total - self._done)


def _new(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same. Raises: UserError ``encoder_not_finite`` when some are no numbers."""
    if not np.isfinite(values).all():
        raise UserError(
            "the encoder gives infinities or NaN; its training diverged (lower optimizer.lr and train again)",
            code="encoder_not_finite", field="encoder",
        )  # fmt: skip
    return values


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
