"""A corpus of JSON lines and image files, in a folder or a zip.

    interleaved.jsonl   a document a line: {"text_list": [...], "image_info": [{"image_name", "matched_text_index",
                        "matched_sim"}, ...]}, other fields are ignored; a line with "segments", [{"text"} |
                        {"image"}, ...], is a sequence whose texts and images keep this order
    pairs.jsonl         a captioned image a line: {"image", "captions": [...], "labels": {...}, "split", "source",
                        "name", "keywords": [...]}
    images/NAME         the image files that both name

Instead of one file there may be several, ``interleaved/NAME.jsonl`` and ``pairs/NAME.jsonl``, also in folders. Those
whose name or first folder below ``interleaved`` begins with ``val`` or ``test`` are held out.
The other form, for corpora of any size, is ``lcl_core.data.shards``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from lcl_core.common.archive import BLOCK
from lcl_core.common.disk_cache import no_progress
from lcl_core.common.errors import UserError
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.corpus.file_store import FileStore, PreadFile, open_store
from lcl_core.data.image_decoding import MAX_IMAGE_BYTES
from lcl_core.data.jsonl import JsonLines
from lcl_core.data.records import (
    DEFAULT_SPLIT,
    PAIR_FIELDS,
    CaptionPair,
    add_subjects,
    check_document,
    check_pair,
    document_split,
    is_held_out,
)


class FileCorpus(Corpus):
    """Raises: UserError ``corpus_unreadable`` where there is neither ``interleaved.jsonl`` nor ``pairs.jsonl``."""

    def __init__(self, store: FileStore) -> None:
        self.path = store.path
        self._store = store
        self._content_hash: str | None = None
        names = jsonl_files(store, "interleaved")
        self._held_out_files = tuple(name for name in names if is_held_out(document_split(name)))
        self._document_files = tuple(name for name in names if name not in self._held_out_files)
        self._pair_files = jsonl_files(store, "pairs")
        if not self._document_files and not self._pair_files:
            raise UserError(
                "the corpus has neither interleaved.jsonl nor pairs.jsonl; see the data guide for the layout",
                code="corpus_unreadable",
                file=self.path,
            )

    @staticmethod
    def open(path: Path) -> FileCorpus:
        return FileCorpus(open_store(path))

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return FileCorpus.open, (self.path,)

    @cached_property
    def documents(self) -> JsonLines[dict[str, Any]]:
        """Indexing raises UserError ``bad_document``."""
        return JsonLines(self._buffers(self._document_files), check_document, dict)

    @cached_property
    def held_out_documents(self) -> JsonLines[dict[str, Any]]:
        """Likewise, of the held-out splits."""
        return JsonLines(self._buffers(self._held_out_files), check_document, dict)

    @cached_property
    def all_pairs(self) -> JsonLines[CaptionPair]:
        """Indexing raises UserError ``bad_document``; ``pairs`` does so for any line at once."""
        return JsonLines(self._buffers(self._pair_files), check_pair, _to_pair)

    @cached_property
    def _pair_groups(self) -> list[tuple[str, str]]:
        """(split, source) of every pair line, as shared tuples; all lines are checked on the way."""
        groups: dict[tuple[str, str], tuple[str, str]] = {}
        keys = ((pair.split, pair.source) for pair in self.all_pairs)
        return [groups.setdefault(key, key) for key in keys]

    def pairs(self, split: str | Sequence[str] | None = None, source: str | None = None) -> JsonLines[CaptionPair]:
        """Raises: UserError ``bad_document`` with the first malformed line."""
        splits = (split,) if isinstance(split, str) else split
        return self.all_pairs.choose(
            [
                index
                for index, (pair_split, pair_source) in enumerate(self._pair_groups)
                if (splits is None or pair_split in splits) and (source is None or pair_source == source)
            ]
        )

    def splits(self) -> dict[str, int]:
        return dict(Counter(split for split, _ in self._pair_groups))

    def with_subjects(self, document: dict[str, Any]) -> dict[str, Any]:
        """The first call reads every captioned image of the corpus."""
        return add_subjects(document, self._find_pair)

    @cached_property
    def _pair_numbers(self) -> dict[str, int]:
        """Number of the first captioned image of each image name; lines that cannot be read are left out."""
        numbers: dict[str, int] = {}
        for number in range(len(self.all_pairs)):
            with suppress(UserError):
                numbers.setdefault(self.all_pairs[number].image, number)
        return numbers

    def _find_pair(self, image: str) -> CaptionPair | None:
        number = self._pair_numbers.get(image)
        return None if number is None else self.all_pairs[number]

    def image_bytes(self, name: str) -> bytes:
        return self._store.read(f"images/{name}", MAX_IMAGE_BYTES)

    def image_location(self, name: str) -> str:
        return f"images/{name}"

    def content_hash(self, progress: Callable[[], None] = no_progress) -> str:
        """sha256 (hex) over names and contents; a folder and a zip of it give the same.

        Files of held-out documents, which no training reads, are left out: hashes that are recorded stay as they are.
        """
        if self._content_hash is None:
            total = hashlib.sha256()
            for name in self._store.names():
                progress()
                if name.startswith("images/") or name in self._document_files or name in self._pair_files:
                    buffer = self._store.buffer(name)
                    digest = hashlib.sha256()
                    for start in range(0, len(buffer), BLOCK):
                        digest.update(buffer[start : start + BLOCK])
                    line = f"{name}\0{digest.hexdigest()}\n"
                    total.update(line.encode("utf-8", "surrogateescape"))  # a file may have a name of any bytes
            self._content_hash = total.hexdigest()
        return self._content_hash

    def _buffers(self, files: Sequence[str]) -> dict[str, bytes | PreadFile]:
        return {name: self._store.buffer(name) for name in files}


def jsonl_files(store: FileStore, stem: str) -> tuple[str, ...]:
    """``STEM.jsonl``, or else the files ``STEM/*.jsonl``."""
    if store.has(f"{stem}.jsonl"):
        return (f"{stem}.jsonl",)
    return tuple(name for name in store.names() if name.startswith(f"{stem}/") and name.endswith(".jsonl"))


def _to_pair(line: dict[str, Any]) -> CaptionPair:
    return CaptionPair(
        image=line["image"],
        captions=tuple(line["captions"]),
        labels=line.get("labels", {}),
        split=line.get("split", DEFAULT_SPLIT),
        source=line.get("source", ""),
        extra={key: value for key, value in line.items() if key not in PAIR_FIELDS},
    )
