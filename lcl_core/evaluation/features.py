"""Frozen features of images and texts: the encoder under evaluation and the feature cache on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_json_atomically
from lcl_core.data import Corpus
from lcl_core.encoders.base import ImageEncoder
from lcl_core.encoders.registry import load_image_encoder


@dataclass(frozen=True)
class EvaluatedEncoder:
    """A frozen encoder in its role, ``trained`` or ``untrained``."""

    role: str
    tower: ImageEncoder

    @property
    def weights_hash(self) -> str:
        return self.tower.identity["weights"]

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> tuple[Tensor | None, Tensor]:
        """Pooled latents [n, E] (L2-normalised; none where the tower has none) and patch features [n, N, W]."""
        pooled, patches = self.tower.encode(self.tower.preprocess(images).to(self.tower.device))
        return None if pooled is None else pooled.cpu(), patches.float().cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Features [n, E], L2-normalised.

        Raises:
            UserError: ``no_text_encoder``.
        """
        features = self.tower.encode_texts(texts)
        if features is None:
            raise UserError(
                "this encoder reads no texts; leave out the tasks that compare pictures with texts without training",
                code="no_text_encoder", field="tasks",
            )  # fmt: skip
        return features.cpu()


def load_evaluated_encoder(directory: str | Path) -> EvaluatedEncoder:
    """Read a saved encoder onto the GPU when there is one.

    Raises:
        UserError: ``encoder_unreadable``, naming the directory and what is wrong with it.
    """
    return EvaluatedEncoder("trained", load_image_encoder(Path(directory)))


def random_init_baseline(encoder: EvaluatedEncoder) -> EvaluatedEncoder:
    """The same architecture and transform with the weights it starts from, at a fixed seed."""
    return EvaluatedEncoder("untrained", encoder.tower.random_init())


Arrays = Mapping[str, NDArray[np.floating]]

_CACHE_VERSION = 2  # of an entry, and of what its numbers mean; raise it when either changes


class FeatureCache:
    """Folders of ``.npy`` files named by the hash of everything that the numbers depend on.

    An entry is built beside and renamed, so a reader sees all of it or nothing, and two writers of one key
    agree. The entries used longest ago are removed beyond ``max_bytes``; arrays that someone still has mapped
    stay readable.
    """

    def __init__(self, root: Path, max_bytes: int = 20 * 2**30) -> None:
        self.root = root
        self.max_bytes = max_bytes

    def get_or_make(self, facts: Mapping[str, Any], make: Callable[[Path], None]) -> Arrays:
        """The arrays of the entry for ``facts``, memory-mapped and read-only.

        Args:
            facts: what the numbers depend on, JSON values.
            make: writes the entry's ``NAME.npy`` files into the folder it is given; called only on a miss.
        """
        text = json.dumps({"layout": _CACHE_VERSION, **facts}, sort_keys=True)
        entry = self.root / hashlib.sha256(text.encode()).hexdigest()
        found = self._read(entry)
        if found is None:
            self._make(entry, text, make)
            found = self._read(entry)
        if found is None:
            raise OSError(f"the feature cache entry {entry} vanished while it was being read")
        return found

    def _read(self, entry: Path) -> Arrays | None:
        try:
            os.utime(entry)
            files = sorted(entry.glob("*.npy"))
            return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}
        except FileNotFoundError:
            return None

    def _make(self, entry: Path, facts: str, make: Callable[[Path], None]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".making-", ignore_cleanup_errors=True) as folder:
            building = Path(folder) / "entry"
            building.mkdir()
            make(building)
            write_json_atomically(building / "facts.json", json.loads(facts))
            try:
                building.rename(entry)
            except OSError:
                if not entry.is_dir():  # else another process made the same entry first
                    raise
        self._prune(newest=entry)

    def _prune(self, newest: Path) -> None:
        entries = [entry for entry in self.root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        used = {entry: _last_use_and_size(entry) for entry in entries}
        total = sum(size for _, size in used.values())
        for entry in sorted(entries, key=lambda entry: used[entry][0]):
            if total <= self.max_bytes or entry == newest:
                return
            shutil.rmtree(entry, ignore_errors=True)
            total -= used[entry][1]


def _last_use_and_size(entry: Path) -> tuple[float, int]:
    """When an entry was last used, and its bytes; (0, 0) if another process has just removed it."""
    try:
        return entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir())
    except FileNotFoundError:
        return 0.0, 0


OnProgress = Callable[[int], None]

_IMAGE_BATCH = 64
_TEXT_BATCH = 256


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
    encoder: EvaluatedEncoder,
    corpus: Corpus,
    names: Sequence[str],
    cache: FeatureCache,
    *,
    patches: bool,
    advance: OnProgress,
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
    meter = _ProgressCounter(advance)

    def make(folder: Path) -> None:
        pooled = tokens = None
        if tower.embed_dim is not None:
            pooled = _create_npy(folder / "pooled.npy", np.float32, (len(names), tower.embed_dim))
        if patches:
            tokens = _create_npy(folder / "patches.npy", np.float16, (len(names), tower.tokens, tower.width))
        for start in range(0, len(names), _IMAGE_BATCH):
            batch = names[start : start + _IMAGE_BATCH]
            rows = slice(start, start + len(batch))
            latents, grid = encoder.embed_images([corpus.read_image(name) for name in batch])
            if pooled is not None and latents is not None:
                pooled[rows] = check_finite(latents.numpy())
            if tokens is not None:
                tokens[rows] = check_finite(grid.half().numpy())
            meter.add(len(batch))

    arrays = cache.get_or_make(facts, make)
    meter.finish(len(names))
    return ImageFeatures(arrays.get("pooled"), arrays.get("patches"))


def text_features(
    encoder: EvaluatedEncoder, texts: Sequence[str], cache: FeatureCache, *, advance: OnProgress
) -> NDArray[np.float32]:
    """[n, E] features of ``texts``.

    Raises:
        UserError: the encoder reads no texts, or gives infinities.
    """
    return cached_text_features(encoder.tower.identity, encoder.embed_texts, texts, cache, advance=advance)


def cached_text_features(
    identity: Mapping[str, str],
    embed: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    cache: FeatureCache,
    *,
    advance: OnProgress,
) -> NDArray[np.float32]:
    """[n, E] features of ``texts``, memory-mapped.

    Args:
        identity: what makes them features of this text encoder.
        embed: some texts → their features on the CPU.

    Raises:
        UserError: the features are infinities.
    """
    facts = {"kind": "texts", "encoder": dict(identity), "texts": _digest(map(json.dumps, texts))}
    meter = _ProgressCounter(advance)

    def make(folder: Path) -> None:
        parts = []
        for start in range(0, len(texts), _TEXT_BATCH):
            batch = texts[start : start + _TEXT_BATCH]
            parts.append(check_finite(embed(batch).numpy()))
            meter.add(len(batch))
        np.save(folder / "texts.npy", np.concatenate(parts).astype(np.float32))

    arrays = cache.get_or_make(facts, make)
    meter.finish(len(texts))
    return np.asarray(arrays["texts"], np.float32)


class _ProgressCounter:
    """Tells progress as work is done, and the rest of it at once when the cache already had the answer."""

    def __init__(self, advance: OnProgress) -> None:
        self._advance = advance
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        self._advance(count)

    def finish(self, total: int) -> None:
        self.add(total - self._done)


def _create_npy(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def check_finite(values: NDArray[np.floating]) -> NDArray[np.floating]:
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
