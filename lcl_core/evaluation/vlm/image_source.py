"""Image sources of benchmarks and conversations: a folder, a zip, a table with base64 images, several of them.

Each is a corpus that holds images and nothing else. Image names follow the official archives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lcl_core.common.errors import UserError
from lcl_core.data import Corpus
from lcl_core.data.corpus.base import CaptionPairs, Documents
from lcl_core.data.corpus.file_store import open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.evaluation.benchmarks.base import BenchmarkQuestion
from lcl_core.evaluation.benchmarks.io import find_one_file, raise_format_error, read_table


class ImageSource(Corpus):
    """Pictures by name; no documents, no captions."""

    @property
    def documents(self) -> Documents:
        return _EmptySequence()

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        return _EmptySequence()

    def splits(self) -> dict[str, int]:
        return {}

    def has(self, name: str) -> bool:
        """Is there a picture of that name?"""
        raise NotImplementedError


class FolderImages(ImageSource):
    """Pictures in a folder or a zip, by their paths in it.

    Raises:
        UserError: there is no such folder; its field is ``field``.
    """

    def __init__(self, path: Path, *, field: str) -> None:
        self.path = path
        try:
            self._store = open_store(path)
        except UserError as error:
            error.field = field
            raise

    def has(self, name: str) -> bool:
        return self._store.has(name)

    def image_bytes(self, name: str) -> bytes:
        return self._store.read(name, MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        return str(self.path / name)

    def content_hash(self) -> str:
        """Of the files' names, sizes and times: these folders are large, and are not written to."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for name in self._store.names() if self.path.is_dir() else [""]:
            facts = os.stat(self.path / name)
            digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class Base64Images(ImageSource):
    """Pictures that a table holds as text, in base64."""

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
                f"the picture of row {name} is no base64 ({error})", code="image_unreadable", file=self.path
            ) from None

    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._encoded):
            digest.update(f"{name}\0{self._encoded[name]}\n".encode())
        return digest.hexdigest()


class CombinedImages(ImageSource):
    """Several albums as one: the picture ``name`` of the album with number ``n`` is ``n/name``."""

    def __init__(self, albums: Sequence[ImageSource]) -> None:
        self.path = Path("+".join(str(album.path) for album in albums))
        self._albums = list(albums)

    def has(self, name: str) -> bool:
        album, own = self._find(name)
        return album.has(own)

    def image_bytes(self, name: str) -> bytes:
        album, own = self._find(name)
        return album.image_bytes(own)

    def image_location(self, name: str) -> str:
        album, own = self._find(name)
        return album.image_location(own)

    def content_hash(self) -> str:
        return hashlib.sha256("".join(album.content_hash() for album in self._albums).encode()).hexdigest()

    def _find(self, name: str) -> tuple[ImageSource, str]:
        number, own = name.split("/", 1)
        return self._albums[int(number)], own


class _EmptySequence(Sequence[Any]):
    """Documents or pairs of an album."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def describe(self, index: int) -> dict[str, Any]:
        raise IndexError(index)

    def location(self, index: int) -> str:
        raise IndexError(index)


_TURN_STRIDE = 1_000_000  # MMBench numbers the turns of question n as n, n + 1,000,000 …
_COCO_SPLITS = ("val2014", "train2014", "test2015")
_MIN_BASE64_LENGTH = 64  # letters; a shorter entry of MMBench's table is the number of the row that holds the picture


def open_image_source(benchmark: str, path: Path, images: Path | None, *, field: str) -> ImageSource:
    """The pictures of a benchmark.

    Args:
        path: its questions.
        images: the folder of its pictures; only MMBench holds them itself.
        field: of the evaluation's spec that names the benchmark.

    Raises:
        UserError: ``images_missing``, or the folder or table cannot be read.
    """
    if images is not None:
        return FolderImages(images, field=f"{field}.images")
    if benchmark != "mmbench":
        raise UserError(
            f"{benchmark} does not hold its pictures; name their folder in {field}.images",
            code="images_missing", field=f"{field}.images",
        )  # fmt: skip
    file = find_one_file(path, "*.tsv")
    return Base64Images(file, _table_images(file))


def find_image(benchmark: str, question: BenchmarkQuestion, album: ImageSource) -> str | None:
    """The name of the question's picture in ``album``; none where it is not there."""
    return next((name for name in _IMAGE_NAMES[benchmark](question) if album.has(name)), None)


def _table_images(file: Path) -> dict[str, str]:
    """Base64 by the number of the first turn; a later turn may point to the row that holds the picture."""
    held: dict[str, str] = {}
    points: dict[str, str] = {}
    for line, row in read_table(file, ("index", "image")):
        if not row["index"].isdigit():
            raise_format_error(f'the index "{row["index"]}" is no number', file, line)
        number = str(int(row["index"]) % _TURN_STRIDE)
        if len(row["image"]) >= _MIN_BASE64_LENGTH:
            held.setdefault(number, row["image"])
        else:
            points.setdefault(number, row["image"])
    return held | {number: held[other] for number, other in points.items() if number not in held and other in held}


def _coco_names(question: BenchmarkQuestion) -> list[str]:
    number = f"{int(question.image):012d}.jpg"
    return [*(f"COCO_{split}_{number}" for split in _COCO_SPLITS), number]


def _gqa_names(question: BenchmarkQuestion) -> list[str]:
    return [f"{question.image}.jpg"]


def _same_name(question: BenchmarkQuestion) -> list[str]:
    return [question.image]


def _scienceqa_names(question: BenchmarkQuestion) -> list[str]:
    return [question.image, f"test/{question.image}"]


def _mme_names(question: BenchmarkQuestion) -> list[str]:
    subtask, name = question.image.split("/", 1)
    return [question.image, f"{subtask}/images/{name}"]


def _seedbench_names(question: BenchmarkQuestion) -> list[str]:
    """Pictures by their own name; of a video the frame in the middle, which LLaVA names after the question."""
    if question.groups["medium"] != "image":
        return [f"{question.id}.png", f"SEED-Bench-video-image/{question.id}.png"]
    return [question.image, f"{question.image}.jpg", f"{question.image}.png", f"SEED-Bench-image/{question.image}"]


_IMAGE_NAMES: dict[str, Callable[[BenchmarkQuestion], list[str]]] = {
    "vqav2": _coco_names,
    "gqa": _gqa_names,
    "vizwiz": _same_name,
    "scienceqa-img": _scienceqa_names,
    "pope": _same_name,
    "mme": _mme_names,
    "mmbench": _same_name,
    "seed-bench": _seedbench_names,
}
