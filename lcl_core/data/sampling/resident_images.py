"""Images of a corpus decoded and resized once, in a file that all processes of a machine map.

    FOLDER/levels.u8     levels of each image, RGB [height, width, 3], one image after another
    FOLDER/index.npy     of each image: where its levels start, height and width; 0 x 0 where it cannot be read
    FOLDER/images.json   {"names": [name of each image], "problems": {name: {"code", "message", "file"}}}

An image gets the smallest size in which no crop has fewer pixels than the model's input; a smaller one stays as it is.
A folder is an entry of a ``FolderCache``, named by the hash of everything that its bytes depend on: made once, shared
by runs, ranks and loader processes, and made again with the same bytes after an eviction.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from lcl_core.common.disk_cache import FolderCache, no_progress
from lcl_core.common.errors import StoreError, UserError, item_errors_suppressed
from lcl_core.common.files import write_json_atomically
from lcl_core.common.processes import usable_cores
from lcl_core.data.corpus.base import CaptionPairs, Corpus, Documents
from lcl_core.data.image_decoding import CropNeed
from lcl_core.data.records import ImageSegment, parse_segments
from lcl_core.data.sampling.document_plan import images_by_sentence
from lcl_core.specs.data import VIEW_RECORDS, DataSpec, SourceSpec

FIELD = "data.resident"
_VERSION = 3  # of the files' layout and of how images become levels
_LEVELS, _INDEX, _IMAGES = "levels.u8", "index.npy", "images.json"
_ROW = np.dtype([("start", "<u8"), ("height", "<u4"), ("width", "<u4")])
_ITEMS_AT_ONCE = 256  # documents or captioned images whose images are in memory before they are written


class ResidentImages:
    """An open folder. Safe from threads and after a fork."""

    def __init__(self, folder: Path) -> None:
        stored = json.loads((folder / _IMAGES).read_text(encoding="utf-8"))
        self._index = np.load(folder / _INDEX, mmap_mode="r", allow_pickle=False)
        # numpy maps no empty file; without any readable image there are no levels
        empty = (folder / _LEVELS).stat().st_size == 0
        self._levels = np.empty(0, np.uint8) if empty else np.memmap(folder / _LEVELS, np.uint8, "r")
        self._rows = {name: row for row, name in enumerate(stored["names"])}
        self._problems: dict[str, dict[str, Any]] = stored["problems"]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, name: str) -> Image.Image:
        """The RGB image. Raises: UserError as reading it from the corpus did when the folder was made, or unknown."""
        if (problem := self._problems.get(name)) is not None:
            raise UserError(problem["message"], code=problem["code"], file=problem["file"])
        if name not in self._rows:  # the corpus was changed, and has as many items as before
            message = "the dataset was changed after its hash was recorded; lcl data validate records the new one"
            raise UserError(message, code="image_unreadable", file=name)
        start, height, width = (int(value) for value in self._index[self._rows[name]])
        return Image.fromarray(self._levels[start : start + height * width * 3].reshape(height, width, 3))


@dataclass(frozen=True)
class ResidentSource:
    """What the images of one dataset in a folder depend on.

    Attributes:
        content_hash: of the corpus, as it was recorded.
        sources: those of the data spec that read the corpus.
    """

    corpus: Corpus
    content_hash: str
    sources: tuple[SourceSpec, ...]
    need: CropNeed
    similarity_threshold: float

    @property
    def name(self) -> str:
        """Of the cache entry."""
        kinds = [(VIEW_RECORDS[source.view], source.split) for source in self.sources]
        views = sorted({(records, split if records == "pairs" else "") for records, split in kinds})
        documents = any(reads == "documents" for reads, _ in views)
        parts = {
            "version": _VERSION,
            "pillow": PIL.__version__,
            "corpus": self.content_hash,
            "size": self.need.size,
            "share": self.need.smallest_share,
            "fit": self.need.fit,
            "views": views,
            "items": [len(self._items(*view)) for view in views],
            "similarity": self.similarity_threshold if documents else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def image_names(self) -> Iterator[list[str]]:
        """Names of the images that each item of the sources may read; items that cannot be read have none."""
        seen: set[str] = set()
        for source in self.sources:
            names = _pair_images(self.corpus, source) if source.view == "pairs" else self._document_images()
            for each in names:
                new = [name for name in dict.fromkeys(each) if name not in seen]
                seen.update(new)
                yield new

    def _items(self, records: str, split: str) -> Documents | CaptionPairs:
        return self.corpus.pairs(split) if records == "pairs" else self.corpus.documents

    def _document_images(self) -> Iterator[list[str]]:
        documents = self.corpus.documents
        for index in range(len(documents)):
            names: list[str] = []
            with item_errors_suppressed():
                document = documents.describe(index)
                if "segments" in document:
                    names = [part.name for part in parse_segments(document) if isinstance(part, ImageSegment)]
                else:
                    groups = images_by_sentence(document, self.similarity_threshold)
                    names = [name for group in groups.values() for name in group]
            yield names

    def read(self, name: str) -> np.ndarray:
        """The image's levels [height, width, 3] as they are stored. Raises: UserError."""
        image = self.corpus.read_image(name, self.need)
        size = self.need.smallest_size(*image.size)
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))


def _pair_images(corpus: Corpus, source: SourceSpec) -> Iterator[list[str]]:
    pairs = corpus.pairs(source.split)
    for index in range(len(pairs)):
        names: list[str] = []
        with item_errors_suppressed():
            names = [pairs.describe(index).image]
        yield names


def write_resident_images(
    source: ResidentSource, folder: Path, max_bytes: int, progress: Callable[[], None] = no_progress
) -> None:
    """Write the files into an empty folder.

    Args:
        progress: called after every few hundred items; what it raises ends the work.

    Raises: UserError ``too_large`` once the levels exceed ``max_bytes``; OSError.
    """
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    problems: dict[str, dict[str, Any]] = {}
    start, items = 0, source.image_names()
    # a remote read waits for the network; decoding and resizing release Python's global lock
    threads = max(source.corpus.concurrent_reads, usable_cores())
    with (folder / _LEVELS).open("wb") as file, ThreadPoolExecutor(threads) as pool:
        while group := list(islice(items, _ITEMS_AT_ONCE)):
            progress()
            for name, read in chain.from_iterable(pool.map(partial(_read_item, source), group)):
                names.append(name)
                if isinstance(read, UserError):
                    problems[name] = {"message": read.message, "code": read.code, "file": read.file}
                    rows.append((start, 0, 0))
                    continue
                rows.append((start, *read.shape[:2]))
                start += read.size
                if start > max_bytes:
                    message = (
                        f"the images of dataset {source.sources[0].dataset!r} take more than {max_bytes:,} bytes at "
                        f"the size that crops to {source.need.size} pixels need; raise LCL_DATA_CACHE_BYTES of the "
                        f"worker, or leave {FIELD} out"
                    )
                    raise UserError(f"{FIELD}: {message}", code="too_large", field=FIELD)
                file.write(np.ascontiguousarray(read).data)
    np.save(folder / _INDEX, np.array(rows, _ROW))
    write_json_atomically(folder / _IMAGES, {"names": names, "problems": problems})


def _read_item(source: ResidentSource, names: Sequence[str]) -> list[tuple[str, np.ndarray | UserError]]:
    """The images of one item in one thread: a record of shards is read once."""
    found: list[tuple[str, np.ndarray | UserError]] = []
    for name in names:
        try:
            found.append((name, source.read(name)))
        except StoreError:
            raise
        except UserError as error:
            found.append((name, error))
    return found


def resident_sources(
    data: DataSpec, image_size: int, corpora: Mapping[str, Corpus], hashes: Mapping[str, str]
) -> dict[str, ResidentSource]:
    """By dataset. ``hashes``: content hash of each corpus."""
    need = CropNeed(image_size, data.augmentation.crop_scale[0], data.fit)
    found = {}
    for name in dict.fromkeys(source.dataset for source in data.sources):
        own = tuple(source for source in data.sources if source.dataset == name)
        found[name] = ResidentSource(corpora[name], hashes[name], own, need, data.similarity_threshold)
    return found


@contextlib.contextmanager
def open_resident_images(
    sources: Mapping[str, ResidentSource], cache: FolderCache, progress: Callable[[], None] = no_progress
) -> Iterator[dict[str, Path]]:
    """The folder of each dataset, made where it is missing or incomplete; none is evicted before the block's end.

    Raises (on entry): UserError ``too_large``; OSError; what ``progress`` raises.
    """
    with contextlib.ExitStack() as stack:
        folders = {}
        for name, source in sources.items():
            write = partial(write_resident_images, source, max_bytes=cache.max_bytes, progress=progress)
            folders[name] = stack.enter_context(cache.open(source.name, write, progress=progress))
        yield folders
