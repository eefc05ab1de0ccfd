"""Benchmark set: the questions of a benchmark with their images and prompts.

Image sources: a folder, a zip, a table with base64 images, several of them. Each is a corpus of images alone.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.data.corpus.base import CaptionPairs, Documents
from lcl_core.data.corpus.file_store import open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.evaluation.benchmarks import get_benchmark
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion
from lcl_core.evaluation.metrics.core import Ints
from lcl_core.evaluation.tasks.base import EvalImage
from lcl_core.evaluation.vlm.chat_format import IMAGE_MARK, Turn
from lcl_core.specs.evaluate import BenchmarkSpec


class ImageSource(Corpus):
    """Images by name; no documents, no captions."""

    @property
    def documents(self) -> Documents:
        return _EmptySequence()

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        return _EmptySequence()

    def splits(self) -> dict[str, int]:
        return {}

    @abstractmethod
    def has(self, name: str) -> bool:
        """Is there an image of that name?"""

    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for entry in self._hashed_entries():
            digest.update(entry)
        return digest.hexdigest()

    @abstractmethod
    def _hashed_entries(self) -> list[bytes]:
        """Bytes of which the content hash is made."""


class FolderImages(ImageSource):
    """Images in a folder or a zip, by their paths in it.

    The content hash is of the files' names, sizes and times: these folders are large and not written to.

    Raises:
        UserError: there is no such folder; its field is ``field``, as that of the errors of ``has``.
    """

    def __init__(self, path: Path, *, field: str) -> None:
        self.path = path
        self._field, self._root = field, path.resolve() if path.is_dir() else None
        try:
            self._store = open_store(path)
        except UserError as error:
            error.field = field
            raise

    def has(self, name: str) -> bool:
        """Is there an image of that name? A link to nothing is none.

        Raises:
            UserError: ``bad_path`` for a name, or a link, that leads out of the folder: it is never read.
        """
        try:
            if not self._store.has(name):
                return False
        except UserError as error:
            error.field = self._field
            raise
        if self._root is not None and not (self._root / name).resolve().is_relative_to(self._root):
            raise UserError(
                "the image is, or lies behind, a link that leads out of its folder; put what it leads to in its place",
                code="bad_path", field=self._field, file=self.path / name,
            )  # fmt: skip
        return True

    def image_bytes(self, name: str) -> bytes:
        return self._store.read(name, MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        return str(self.path / name)

    def _hashed_entries(self) -> list[bytes]:
        names = [""] if self._root is None else self._store.names()
        stats = [(name, _stat_target(self.path / name)) for name in names]
        lines = [f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for name, stat in stats if stat is not None]
        return [line.encode("utf-8", "surrogateescape") for line in lines]


def _stat_target(file: Path) -> os.stat_result | None:
    """None for a link to nothing. Raises: OSError."""
    try:
        return os.stat(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


class Base64Images(ImageSource):
    """Images that a table holds in base64."""

    def __init__(self, path: Path, encoded: Mapping[str, str]) -> None:
        self.path = path
        self._encoded = dict(encoded)

    def has(self, name: str) -> bool:
        return name in self._encoded

    def image_bytes(self, name: str) -> bytes:
        try:
            return base64.b64decode(self._encoded[name], validate=True)
        except (KeyError, binascii.Error) as error:
            raise UserError(
                f"the image of row {name} is no base64 ({error})", code="image_unreadable", file=self.path
            ) from None

    def _hashed_entries(self) -> list[bytes]:
        return [f"{name}\0{self._encoded[name]}\n".encode() for name in sorted(self._encoded)]


class CombinedImages(ImageSource):
    """Several sources as one: the image ``name`` of source ``n`` is ``n/name``."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.path = Path("+".join(str(source.path) for source in sources))
        self._sources = list(sources)

    def has(self, name: str) -> bool:
        source, own = self._resolve(name)
        return source.has(own)

    def image_bytes(self, name: str) -> bytes:
        source, own = self._resolve(name)
        return source.image_bytes(own)

    def image_location(self, name: str) -> str:
        source, own = self._resolve(name)
        return source.image_location(own)

    def _hashed_entries(self) -> list[bytes]:
        return [source.content_hash().encode() for source in self._sources]

    def _resolve(self, name: str) -> tuple[ImageSource, str]:
        number, own = name.split("/", 1)
        return self._sources[int(number)], own


class _EmptySequence(Sequence[Any]):
    """Documents or pairs of an image source."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def describe(self, index: int) -> Any:
        raise IndexError(index)

    def location(self, index: int) -> str:
        raise IndexError(index)

    def find(self, location: str) -> None:
        return None


@dataclass(frozen=True)
class BenchmarkSet:
    """The questions of one benchmark.

    Attributes:
        benchmark: a name in ``BENCHMARKS``.
        split: a file's name, with folders above it where another set of the benchmark has that name; or the split that
            synthetic questions are made of.
        corpus: of the images.
        images: each once.
        questions: in the order of the files.
        rows: [Q] row in ``images`` of each question's image.
        left_out: number of other questions, by reason.
    """

    benchmark: str
    split: str
    corpus: Corpus
    images: list[EvalImage]
    questions: list[BenchmarkQuestion]
    rows: Ints
    left_out: dict[str, int]

    @property
    def source_key(self) -> str:
        """Names its image source among those of the run."""
        return f"{self.benchmark} {self.split}"

    @property
    def turns(self) -> list[Turn]:
        """[Q] each question with its image and its published prompt, not yet answered."""
        prompts = map(get_benchmark(self.benchmark).prompt, self.questions)
        return [Turn(f"{IMAGE_MARK}\n{prompt.replace(IMAGE_MARK, ' ')}", None) for prompt in prompts]


def load_benchmark_sets(
    specs: Sequence[BenchmarkSpec], max_images: int | None, *, seed: int, field: str
) -> list[BenchmarkSet]:
    """Each of the benchmarks once, under a split of its own; arguments and errors as for :func:`load_benchmark_set`."""
    numbers: dict[tuple[str, Path, Path | None], int] = {}
    for number, spec in enumerate(specs):
        numbers.setdefault((spec.name, Path(spec.path), Path(spec.images) if spec.images else None), number)
    splits = benchmark_splits([specs[number] for number in numbers.values()])
    return [
        replace(load_benchmark_set(specs[number], max_images, seed=seed, field=f"{field}.{number}"), split=split)
        for number, split in zip(numbers.values(), splits, strict=True)
    ]


def benchmark_splits(specs: Sequence[BenchmarkSpec]) -> list[str]:
    """A split for each of the specs, which differ: results are compared by benchmark and split.

    The split is the last part of the path. Where several sets of a benchmark have it in common, each has as many
    further parts as distinguish their paths; sets of one path have their images' folder, too. Order does not matter.
    """
    splits = [""] * len(specs)
    for alike in _group(specs, lambda spec: (spec.name, Path(spec.path).name)):
        for number, split in zip(alike, _distinct_endings([specs[each].path for each in alike]), strict=True):
            splits[number] = split
    for alike in _group(specs, lambda spec: (spec.name, Path(spec.path))):
        if len(alike) > 1:
            endings = _distinct_endings([specs[each].images or "no folder" for each in alike])
            for number, ending in zip(alike, endings, strict=True):
                splits[number] += f" ({ending})"
    return splits


def _group(specs: Sequence[BenchmarkSpec], key: Callable[[BenchmarkSpec], object]) -> list[list[int]]:
    """Numbers of the specs of each key."""
    groups: dict[object, list[int]] = {}
    for number, spec in enumerate(specs):
        groups.setdefault(key(spec), []).append(number)
    return list(groups.values())


def _distinct_endings(paths: Sequence[str]) -> list[str]:
    """As many last parts of each path as make different paths different."""
    parts = [Path(path).parts for path in paths]
    endings: list[str] = []
    for count in range(1, max(map(len, parts), default=0) + 1):
        endings = [str(Path(*own[-count:])) for own in parts]
        if len(set(endings)) == len(set(parts)):
            break
    return endings


def load_benchmark_set(spec: BenchmarkSpec, max_images: int | None, *, seed: int, field: str) -> BenchmarkSet:
    """A benchmark from its official files. Questions whose image is missing are left out and counted.

    Args:
        max_images: images to sample by ``seed``; None: all.
        field: of the evaluation's spec that holds ``spec``.

    Raises:
        UserError: the files cannot be read, or none of the images is there.
    """
    path, benchmark = Path(spec.path), get_benchmark(spec.name)
    questions = benchmark.load(path)
    source = _open_images(spec, path, field)
    named = [(question, next(filter(source.has, benchmark.image_names(question)), None)) for question in questions]
    present = [replace(question, image=name) for question, name in named if name is not None]
    if not present:
        raise UserError(
            f"none of the images that {spec.name} asks about are here", code="images_missing",
            field=f"{field}.images", file=spec.images and Path(spec.images),
        )  # fmt: skip
    names = sample_names([question.image for question in present], max_images, seed)
    chosen = [question for question in present if question.image in names]
    reasons = {"no_picture": len(questions) - len(present), "not_drawn": len(present) - len(chosen)}
    left_out = {reason: count for reason, count in reasons.items() if count}
    return make_benchmark_set(spec.name, path.name, source, chosen, left_out)


def _open_images(spec: BenchmarkSpec, path: Path, field: str) -> ImageSource:
    """The benchmark's images: the named folder, or those that its file holds."""
    if spec.images is not None:
        return FolderImages(Path(spec.images), field=f"{field}.images")
    embedded = get_benchmark(spec.name).embedded_images(path)
    if embedded is None:
        raise UserError(
            f"{spec.name} does not hold its images; name their folder in {field}.images",
            code="images_missing", field=f"{field}.images",
        )  # fmt: skip
    return Base64Images(*embedded)


def make_benchmark_set(
    benchmark: str,
    split: str,
    corpus: Corpus,
    questions: list[BenchmarkQuestion],
    left_out: dict[str, int] | None = None,
) -> BenchmarkSet:
    """A set of ``questions`` whose images have the same names in ``corpus``."""
    row_of = {name: row for row, name in enumerate(dict.fromkeys(question.image for question in questions))}
    images = [EvalImage(name, (), {}) for name in row_of]
    rows = np.array([row_of[question.image] for question in questions], np.int64)
    return BenchmarkSet(benchmark, split, corpus, images, questions, rows, left_out or {})


def sample_names(names: Sequence[str], count: int | None, seed: int) -> set[str]:
    """At most ``count`` different names, by the seed; every question about an image is kept or none."""
    known = list(dict.fromkeys(names))
    if count is None or count >= len(known):
        return set(known)
    return {known[row] for row in np.random.default_rng(seed).choice(len(known), count, replace=False)}
