"""Frozen features of pictures and texts, through the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
        pooled: [n, E] float32 pooled latents, L2-normalised.
        patches: [n, N, W] float16 patch features, or none if they were not asked for.
    """

    pooled: NDArray[np.float32]
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
    facts = {
        "kind": "images", "patches": patches, "encoder": encoder.identity, "transform": encoder.transform,
        "corpus": corpus.content_hash(), "images": _digest(names),
    }  # fmt: skip
    meter = _Meter(advance)

    def make(folder: Path) -> None:
        config = encoder.model.config
        pooled = _new(folder / "pooled.npy", np.float32, (len(names), config.embed_dim))
        tokens = _new(
            folder / "patches.npy", np.float16, (len(names), config.num_image_tokens, config.vision_width)
        ) if patches else None  # fmt: skip
        for start in range(0, len(names), _IMAGES_AT_ONCE):
            batch = names[start : start + _IMAGES_AT_ONCE]
            rows = slice(start, start + len(batch))
            latents, grid = encoder.embed_images([corpus.read_image(name) for name in batch])
            pooled[rows] = _finite(latents.numpy())
            if tokens is not None:
                tokens[rows] = _finite(grid.half().numpy())
            meter.add(len(batch))

    arrays = cache.get_or_make(facts, make)
    meter.finish(len(names))
    return ImageFeatures(arrays["pooled"], arrays.get("patches"))


def text_features(
    encoder: ExamEncoder, texts: Sequence[str], cache: FeatureCache, *, advance: Advance
) -> NDArray[np.float32]:
    """[n, E] features of ``texts`` as contexts ``sot text soi``; the cache knows them by their tokens."""
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    batches = [encoder.processor.encode_texts(texts[start : start + _TEXTS_AT_ONCE]) for start in starts]
    facts = {
        "kind": "texts", "encoder": encoder.identity,
        "tokens": _digest(str(row) for batch in batches for row in batch.tolist()),
    }  # fmt: skip
    meter = _Meter(advance)

    def make(folder: Path) -> None:
        out = _new(folder / "texts.npy", np.float32, (len(texts), encoder.model.config.embed_dim))
        for start, batch in zip(starts, batches, strict=True):
            out[start : start + len(batch)] = _finite(encoder.embed_texts(batch).numpy())
            meter.add(len(batch))

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


def _finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
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
