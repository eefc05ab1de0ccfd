"""A corpus: documents in MMC4's layout and captioned images, in a folder or a zip.

    interleaved.jsonl   a document a line: {"text_list": [...], "image_info": [{"image_name", "matched_text_index",
                        "matched_sim"}, ...]}, other fields are ignored; but one with "segments", [{"text"} |
                        {"image"}, ...], is a sequence, whose texts and images stand where these say
    pairs.jsonl         a captioned image a line: {"image", "captions": [...], "labels": {...}, "split", "source"}
    images/NAME         the pictures that both name

Instead of one file there may be several, ``interleaved/NAME.jsonl`` (all but ``val`` and ``test*``) and
``pairs/NAME.jsonl``. The other form, for corpora of any size, is that of ``lcl_core.data.shards``.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from lcl_core.data.checks import check_document, check_pair
from lcl_core.data.drafts import usable_images
from lcl_core.data.images import MAX_IMAGE_BYTES, CropNeed, decode_image
from lcl_core.data.lines import Concatenation, JsonLines
from lcl_core.data.pairs import PairList, Pairs
from lcl_core.data.pieces import PieceIndex, Pieces
from lcl_core.data.store import Store, open_store
from lcl_core.errors import UserError
from lcl_core.roots import is_url
from lcl_core.specs import DataSpec

SHARD_HEADER = "index.json"
SAMPLE_CORPUS = Path(__file__).parent / "sample" / "tiny.zip"


class Documents(Protocol):
    """Documents in MMC4's layout, as dictionaries, parsed as they are asked for.

    One with ``segments`` ([{"text"} | {"image"}, …]) is a sequence: its texts and images stand at their true places.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> dict[str, Any]: ...
    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def describe(self, index: int) -> dict[str, Any]:
        """Like indexing, for those who do not want its pictures next."""

    def place_of(self, index: int) -> str:
        """Where it stands, for messages and ids."""


def count_usable(documents: Documents, data: DataSpec) -> Iterator[int]:
    """Usable images of each document; none of one that cannot be read."""
    for index in range(len(documents)):
        try:
            yield usable_images(documents.describe(index), data)
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
    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> Pairs:
        """Captioned images of a split (or any of several) and a source; None: all."""

    @property
    def all_pairs(self) -> Pairs:
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

    def pieces(self, data: DataSpec, piece_images: int) -> Pieces:
        """The documents cut into pieces of at most that many images. Reads every document once."""
        return PieceIndex(count_usable(self.documents, data), piece_images)

    def image_place(self, name: str) -> str:
        """The picture's file, for messages."""
        return name

    def read_image(self, name: str, need: CropNeed | None = None) -> Image.Image:
        """Decoded RGB, upright, transparency over white. Raises: UserError naming the file.

        ``need``: what will be cut out of it; the picture may be decoded smaller when that is enough.
        """
        return decode_image(self.image_bytes(name), self.image_place(name), need=need)


class FileCorpus(Corpus):
    """A corpus of JSON lines and pictures, in a folder or a zip."""

    def __init__(self, store: Store) -> None:
        self.path = store.path
        self._store = store
        self._document_files = _files_of(store, "interleaved", leave_out=("val", "test"))
        self._pair_files = _files_of(store, "pairs")
        if not self._document_files and not self._pair_files:
            raise UserError(
                "the corpus has neither interleaved.jsonl nor pairs.jsonl; see the data guide for the layout",
                code="corpus_unreadable",
                file=self.path,
            )

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return open_corpus, (self.path,)

    @cached_property
    def documents(self) -> Concatenation:
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

    def image_place(self, name: str) -> str:
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

    def _lines(self, files: Sequence[str], check: Any) -> Concatenation:
        return Concatenation([JsonLines(self._store.buffer(name), name, check) for name in files])


def _files_of(store: Store, stem: str, leave_out: tuple[str, ...] = ()) -> tuple[str, ...]:
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
        from lcl_core.data.shards import ShardedCorpus
        from lcl_core.data.shards.places import open_place

        return ShardedCorpus(open_place(path))
    return FileCorpus(open_store(path))
