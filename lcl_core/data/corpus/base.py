"""A corpus: documents in MMC4's layout and captioned images, in a folder or a zip.

    interleaved.jsonl   a document a line: {"text_list": [...], "image_info": [{"image_name", "matched_text_index",
                        "matched_sim"}, ...]}, other fields are ignored; a line with "segments", [{"text"} |
                        {"image"}, ...], is a sequence whose texts and images keep this order
    pairs.jsonl         a captioned image a line: {"image", "captions": [...], "labels": {...}, "split", "source"}
    images/NAME         the image files that both name

Instead of one file there may be several, ``interleaved/NAME.jsonl`` (all but ``val`` and ``test*``) and
``pairs/NAME.jsonl``. The other form, for corpora of any size, is that of ``lcl_core.data.shards``.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.common.paths import is_url
from lcl_core.data.corpus.file_store import FileStore, open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES, CropNeed, decode_image
from lcl_core.data.jsonl import ConcatenatedLines, JsonLines
from lcl_core.data.records import check_document, check_pair
from lcl_core.data.sampling.document_plan import ChunkIndex, DocumentChunks, count_usable_images
from lcl_core.specs.pretrain import DataSpec

DEFAULT_SPLIT = "train"
_PAIR_FIELDS = frozenset(("image", "captions", "labels", "split", "source"))


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A captioned image.

    Attributes:
        image: name under ``images/``.
        captions: alternative texts for it, maybe none.
        labels: classes by kind, such as ``{"subgroup": "bugs"}``.
        split: ``train`` unless the line says otherwise.
        source: where it came from, maybe empty.
        extra: the line's other fields.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any] = field(default_factory=dict)


class CaptionPairs(Protocol):
    """Captioned images as a corpus gives them, parsed as they are asked for."""

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> CaptionPair: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[CaptionPair]: ...
    def __iter__(self) -> Iterator[CaptionPair]: ...

    def location(self, index: int) -> str:
        """Where it stands, for messages and ids."""


class PairList(Sequence[CaptionPair]):
    """Chosen pair lines, parsed as they are asked for."""

    def __init__(self, lines: ConcatenatedLines, indices: Sequence[int]) -> None:
        self._lines = lines
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> CaptionPair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CaptionPair]: ...

    def __getitem__(self, index: int | slice) -> CaptionPair | Sequence[CaptionPair]:
        if isinstance(index, slice):
            return PairList(self._lines, self._indices[index])
        return _to_pair(self._lines[self._indices[index]])

    def choose(self, indices: Sequence[int]) -> PairList:
        """Those at ``indices``, in that order."""
        return PairList(self._lines, [self._indices[index] for index in indices])

    def location(self, index: int) -> str:
        """``file:line`` of a pair, for messages and ids."""
        return self._lines.location(self._indices[index])


def _to_pair(line: dict[str, Any]) -> CaptionPair:
    return CaptionPair(
        image=line["image"],
        captions=tuple(line["captions"]),
        labels=line.get("labels", {}),
        split=line.get("split", DEFAULT_SPLIT),
        source=line.get("source", ""),
        extra={key: value for key, value in line.items() if key not in _PAIR_FIELDS},
    )


SHARD_HEADER = "index.json"
SAMPLE_CORPUS = Path(__file__).parents[1] / "sample" / "tiny.zip"


class Documents(Protocol):
    """Documents in MMC4's layout, as dictionaries, parsed as they are asked for.

    One with ``segments`` ([{"text"} | {"image"}, …]) is a sequence: its texts and images stand at their true places.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> dict[str, Any]: ...
    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def describe(self, index: int) -> dict[str, Any]:
        """Like indexing, for those who do not want its pictures next."""

    def location(self, index: int) -> str:
        """Where it stands, for messages and ids."""


def usable_image_counts(documents: Documents, data: DataSpec) -> Iterator[int]:
    """Usable images of each document; none of one that cannot be read."""
    for index in range(len(documents)):
        try:
            yield count_usable_images(documents.describe(index), data)
        except UserError:
            yield 0


class Corpus(ABC):
    """Read through :func:`open_corpus`. Safe from several threads and after a fork."""

    path: Path

    @property
    @abstractmethod
    def documents(self) -> Documents:
        """All documents to train on. Indexing raises UserError where one cannot be read."""

    @abstractmethod
    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> CaptionPairs:
        """Captioned images of a split (or any of several) and a source; None: all."""

    @property
    def all_pairs(self) -> CaptionPairs:
        """Every captioned image. Indexing raises UserError where one cannot be read."""
        return self.pairs()

    @abstractmethod
    def splits(self) -> dict[str, int]:
        """How many captioned images each split has."""

    @abstractmethod
    def image_bytes(self, name: str) -> bytes:
        """The file as it lies there. Raises: UserError naming the file."""

    @abstractmethod
    def content_hash(self) -> str:
        """sha256 (hex) of what the corpus holds."""

    def chunks(self, data: DataSpec, piece_images: int) -> DocumentChunks:
        """The documents cut into pieces of at most that many images. Reads every document once."""
        return ChunkIndex(usable_image_counts(self.documents, data), piece_images)

    def image_location(self, name: str) -> str:
        """The picture's file, for messages."""
        return name

    def read_image(self, name: str, need: CropNeed | None = None) -> Image.Image:
        """Decoded RGB, upright, transparency over white. Raises: UserError naming the file.

        ``need``: what will be cut out of it; the picture may be decoded smaller when that is enough.
        """
        return decode_image(self.image_bytes(name), self.image_location(name), need=need)


class FileCorpus(Corpus):
    """A corpus of JSON lines and pictures, in a folder or a zip."""

    def __init__(self, store: FileStore) -> None:
        self.path = store.path
        self._store = store
        self._document_files = _jsonl_files(store, "interleaved", leave_out=("val", "test"))
        self._pair_files = _jsonl_files(store, "pairs")
        if not self._document_files and not self._pair_files:
            raise UserError(
                "the corpus has neither interleaved.jsonl nor pairs.jsonl; see the data guide for the layout",
                code="corpus_unreadable",
                file=self.path,
            )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return open_corpus, (self.path,)

    @cached_property
    def documents(self) -> ConcatenatedLines:
        """MMC4 documents, parsed as they are asked for. Indexing raises UserError ``bad_line``."""
        return self._lines(self._document_files, check_document)

    @cached_property
    def all_pairs(self) -> PairList:
        """Every captioned image. Indexing raises UserError ``bad_line``; ``pairs`` does so for any line at once."""
        lines = self._lines(self._pair_files, check_pair)
        return PairList(lines, range(len(lines)))

    @cached_property
    def _pair_groups(self) -> list[tuple[str, str]]:
        """(split, source) of every pair line; all lines are checked on the way."""
        groups: dict[tuple[str, str], tuple[str, str]] = {}
        found = []
        for pair in self.all_pairs:
            group = (pair.split, pair.source)
            found.append(groups.setdefault(group, group))
        return found

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> PairList:
        """Captioned images of a split (or any of several) and a source; None: all.

        Raises:
            UserError: ``bad_line`` with the first malformed line.
        """
        splits = (split,) if isinstance(split, str) else split
        wanted = [
            index
            for index, (its_split, its_source) in enumerate(self._pair_groups)
            if (splits is None or its_split in splits) and (source is None or its_source == source)
        ]
        return self.all_pairs.choose(wanted)

    def splits(self) -> dict[str, int]:
        """How many captioned images each split has."""
        counts: dict[str, int] = {}
        for split, _ in self._pair_groups:
            counts[split] = counts.get(split, 0) + 1
        return counts

    def image_bytes(self, name: str) -> bytes:
        """The file as it lies there. Raises: UserError naming the file."""
        return self._store.read(f"images/{name}", MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        return f"images/{name}"

    def content_hash(self) -> str:
        """sha256 (hex) over names and contents; a folder and a zip of it give the same."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        total = hashlib.sha256()
        for name in self._store.names():
            if name.startswith("images/") or name in self._document_files or name in self._pair_files:
                line = f"{name}\0{hashlib.sha256(self._store.buffer(name)).hexdigest()}\n"
                total.update(line.encode("utf-8", "surrogateescape"))  # a file may have a name of any bytes
        return total.hexdigest()

    def _lines(self, files: Sequence[str], check: Any) -> ConcatenatedLines:
        return ConcatenatedLines([JsonLines(self._store.buffer(name), name, check) for name in files])


def _jsonl_files(store: FileStore, stem: str, leave_out: tuple[str, ...] = ()) -> tuple[str, ...]:
    """``STEM.jsonl``, or else the files ``STEM/*.jsonl``."""
    if store.has(f"{stem}.jsonl"):
        return (f"{stem}.jsonl",)
    found = [name for name in store.names() if name.startswith(f"{stem}/") and name.endswith(".jsonl")]
    return tuple(name for name in found if not name.removeprefix(f"{stem}/").startswith(leave_out or "\0"))


def open_corpus(path: str | Path) -> Corpus:
    """Open a folder, a zip, or shards in a folder or at any fsspec URL.

    Raises: UserError ``corpus_missing`` or ``corpus_unreadable``, naming it.
    """
    if is_url(str(path)) or os.path.isfile(Path(path) / SHARD_HEADER):
        from lcl_core.data.shards.sharded_corpus import ShardedCorpus
        from lcl_core.data.shards.storage import open_shard_storage

        return ShardedCorpus(open_shard_storage(path))
    return FileCorpus(open_store(path))
