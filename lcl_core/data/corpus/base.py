"""The interface of a corpus: documents in MMC4's layout, captioned images, and image files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.image_decoding import CropNeed, decode_image
from lcl_core.data.records import CaptionPair
from lcl_core.data.sampling.document_plan import ChunkIndex, DocumentChunks, count_usable_images
from lcl_core.specs.data import DataSpec

SAMPLE_CORPUS = Path(__file__).parents[1] / "sample" / "drawings.zip"


T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """Documents or captioned images of a corpus, parsed on access."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> T_co: ...
    def __iter__(self) -> Iterator[T_co]: ...

    def describe(self, index: int) -> T_co:
        """Like indexing, without prefetching the item's images."""

    def location(self, index: int) -> str:
        """File and line, or record number, for messages, ids and tags."""

    def find(self, location: str) -> int | None:
        """Index of the item at ``location``; None: it is not among these."""


# In MMC4's layout, as dictionaries. One with ``segments`` ([{"text"} | {"image"}, …]) is a sequence whose texts and
# images keep that order.
Documents = Items[dict[str, Any]]
CaptionPairs = Items[CaptionPair]


def usable_image_counts(documents: Documents, data: DataSpec) -> Iterator[int]:
    """Usable images of each document; 0 for one that cannot be read."""
    for index in range(len(documents)):
        try:
            yield count_usable_images(documents.describe(index), data)
        except StoreError:
            raise
        except UserError:
            yield 0


class Corpus(ABC):
    """Opened by ``open_corpus``. Safe from several threads and after a fork; can be pickled."""

    path: Path
    concurrent_reads = 1  # threads that should read at once: more than one where each read waits for a network

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
        """Number of captioned images of each split."""

    @abstractmethod
    def image_bytes(self, name: str) -> bytes:
        """The encoded file. Raises: UserError naming the file."""

    @abstractmethod
    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        """sha256 (hex) of the contents. ``progress``: called while they are read; what it raises ends that."""

    def chunks(self, data: DataSpec, piece_images: int) -> DocumentChunks:
        """The documents cut into chunks of at most that many images. Reads every document once."""
        return ChunkIndex(usable_image_counts(self.documents, data), piece_images)

    def with_subjects(self, document: dict[str, Any]) -> dict[str, Any]:
        """A document whose images have the ``subject`` that the corpus knows of each (``records.add_subjects``)."""
        return document

    def image_location(self, name: str) -> str:
        """The image's file, for messages."""
        return name

    def read_image(self, name: str, need: CropNeed | None = None) -> Image.Image:
        """Decoded RGB, upright, transparency over white. Raises: UserError naming the file.

        ``need``: the crops to take; a larger JPEG is decoded smaller where that is enough.
        """
        return decode_image(self.image_bytes(name), self.image_location(name), need=need)
