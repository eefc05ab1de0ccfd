"""Items of a corpus or reader in bounded chunks that can be sent to another process, and the check of one chunk.

Every image is decoded and every text measured.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.data.image_decoding import FORMATS, ORIENTATION, decode_image
from lcl_core.data.records import (
    BadItem,
    Body,
    CaptionedImage,
    ImageMatch,
    MatchedDocument,
    Record,
    SequenceDocument,
    body_image_names,
    body_texts,
    document_split,
    parse_segments,
)
from lcl_core.data.shards.sharded_corpus import ShardedCorpus, decode_body
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation import report as why
from lcl_core.data.validation.report import (
    ChunkResult,
    ContentOccurrence,
    CorpusCounts,
    Issue,
    ValidationLimits,
    image_issue_reason,
    new_chunk_result,
)
from lcl_core.parts.plan import PartSource, Section

CHUNK_RECORDS = 64
CHUNK_BYTES = 8 << 20
_KINDS = {MatchedDocument: "matched", SequenceDocument: "sequence", CaptionedImage: "pair"}


@dataclass(frozen=True, slots=True)
class LoadError:
    """The code and message of the UserError of an image that could not be loaded, as values that can be pickled."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RecordItem:
    """A record without its loaders. ``images``: files by name; None: the validator reads them from the corpus."""

    id: str
    split: str
    source: str
    body: Body
    images: dict[str, bytes | LoadError] | None = None


Chunk = list[RecordItem | BadItem]


@runtime_checkable
class ReadableCorpus(Protocol):
    """An open corpus, in a folder, a zip or shards. It can be sent to another process."""

    path: Path
    documents: Any
    held_out_documents: Any

    @property
    def all_pairs(self) -> Any: ...

    def image_bytes(self, name: str) -> bytes: ...


def item_source(source: ReadableCorpus | PartSource[Record | BadItem]) -> PartSource[RecordItem | BadItem]:
    """Every record of a corpus or a reader, by sections."""
    return CorpusItems(source) if isinstance(source, ReadableCorpus) else ReaderItems(source)


def count_items(source: Any) -> int | None:
    """Number of records of a corpus; None for a reader, which would have to walk through it."""
    if isinstance(source, ShardedCorpus):
        return len(source.index)
    if not isinstance(source, ReadableCorpus):
        return None
    return sum(len(rows) for rows in (source.documents, source.all_pairs, source.held_out_documents))


def chunk_items(items: Iterable[RecordItem | BadItem]) -> Iterator[Chunk]:
    """Runs of items, bounded in number and, but for one record, in bytes."""
    chunk: Chunk = []
    size = 0
    for item in items:
        chunk.append(item)
        if isinstance(item, RecordItem) and item.images:
            size += sum(len(data) for data in item.images.values() if isinstance(data, bytes))
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def split_record_id(id: str) -> tuple[str, int]:
    """File and line of a record id ``FILE:LINE``; any other id counts as the file."""
    file, colon, line = id.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (id, 0)


def _record_items(records: Iterable[Record | BadItem]) -> Iterator[RecordItem | BadItem]:
    for record in records:
        if isinstance(record, BadItem):
            yield record
        else:
            images = {image.name: _load_image(image.load) for image in record.images}
            yield RecordItem(record.id, record.split, record.source, record.body, images)


def _load_image(load: Any) -> bytes | LoadError:
    try:
        return load()
    except StoreError:
        raise
    except UserError as error:
        return LoadError(error.code, str(error))
    except OSError as error:
        return LoadError("file_unreadable", f"the file cannot be read: {error.strerror or error}")


class CorpusItems:
    """The items of an open corpus: of shards, or documents, then captioned images, then held-out documents.

    Captioned images are read line by line: ``corpus.pairs()`` raises if any line is malformed.
    """

    def __init__(self, corpus: ReadableCorpus) -> None:
        self._corpus = corpus

    def sections(self) -> Sequence[Section]:
        """Without stamps: an open corpus does not change."""
        names = (
            ("records",) if isinstance(self._corpus, ShardedCorpus) else ("documents", "pairs", "held_out_documents")
        )
        return [Section(name) for name in names]

    def read_section(self, key: str, start: int = 0) -> Iterator[RecordItem | BadItem]:
        return (self._item(key, index) for index in range(start, self.count_section(key)))

    def count_section(self, key: str) -> int:
        return len(self._corpus.index if isinstance(self._corpus, ShardedCorpus) else self._rows(key))

    def _rows(self, key: str) -> Any:
        if key == "pairs":
            return self._corpus.all_pairs
        return self._corpus.documents if key == "documents" else self._corpus.held_out_documents

    def _item(self, key: str, index: int) -> RecordItem | BadItem:
        if isinstance(self._corpus, ShardedCorpus):
            return _shard_item(self._corpus, index)
        rows = self._rows(key)
        id = rows.location(index)
        try:
            return _pair_item(rows[index], id) if key == "pairs" else _document_item(rows[index], id)
        except UserError as error:
            return BadItem(*split_record_id(id), "bad line", error.message)


class ReaderItems:
    """The items of a reader of a foreign format, with their images."""

    def __init__(self, reader: PartSource[Record | BadItem]) -> None:
        self._reader = reader

    def sections(self) -> Sequence[Section]:
        return self._reader.sections()

    def read_section(self, key: str, start: int = 0) -> Iterator[RecordItem | BadItem]:
        return _record_items(self._reader.read_section(key, start))

    def count_section(self, key: str) -> int:
        return self._reader.count_section(key)


def _document_item(document: dict[str, Any], id: str) -> RecordItem:
    """Raises: UserError for malformed segments."""
    split = document_split(split_record_id(id)[0])
    if "segments" in document:
        return RecordItem(id, split, "", SequenceDocument(parse_segments(document)))
    matches = tuple(
        ImageMatch(image["image_name"], image["matched_text_index"], float(image["matched_sim"]))
        for image in document["image_info"]
    )
    return RecordItem(id, split, "", MatchedDocument(tuple(document["text_list"]), matches))


def _pair_item(pair: Any, id: str) -> RecordItem:
    return RecordItem(id, pair.split, pair.source, CaptionedImage(pair.image, pair.captions, pair.labels))


def _shard_item(corpus: ShardedCorpus, number: int) -> RecordItem | BadItem:
    """A description alone: the validator reads a record's images, all of them in one range."""
    try:
        value = corpus.description(number, with_images=False)
        return RecordItem(value["id"], value["split"], value["source"], decode_body(value, number))
    except StoreError:
        raise
    except UserError as error:
        return BadItem(error.file or "", 0, "damaged record", error.message)


class Validator:
    """Checks chunks; one a process.

    Args:
        corpus: source of images that do not come with their item.
        tokenizer: measures texts in tokens; None: in words.
    """

    def __init__(
        self, limits: ValidationLimits, corpus: ReadableCorpus | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self._limits, self._corpus, self._tokenizer = limits, corpus, tokenizer
        self.unit = "words" if tokenizer is None else "tokens"

    def check(self, chunk: Sequence[RecordItem | BadItem]) -> ChunkResult:
        result = new_chunk_result(self.unit, items=len(chunk))
        for item in chunk:
            if isinstance(item, BadItem):
                issue = Issue(item.file, item.line, "", item.reason, item.detail)
                result.add_issue(issue, "", "")
            else:
                self._check_item(item, result)
        return result

    def _check_item(self, item: RecordItem, result: ChunkResult) -> None:
        """An image counts once a record, however often it occurs in it."""
        texts, usable, contents = body_texts(item.body), set(), []
        for name in body_image_names(item.body):
            digest = self._check_image(item, name, result)
            contents.append(digest or _digest(_image_namespace(item), _encode(name)))
            if digest is not None:
                usable.add(name)
        tokens = sum(map(self._length, texts))
        counts, group = result.counts, result.counts.group(item.split, item.source)
        group.documents += 1
        group.images += len(contents)
        group.tokens += tokens
        counts.kinds[_KINDS[type(item.body)]] += 1
        counts.histograms["length"].add(tokens)
        counts.histograms["images_per_document"].add(len(contents))
        for match in item.body.matches if isinstance(item.body, MatchedDocument) else ():
            counts.histograms["similarity"].add(match.similarity)
        self._check_contents(item, texts, usable, result)
        if texts or contents:
            digest = _digest(*map(_encode, texts), b"", *contents)
            issue = _make_issue(item, why.DUPLICATE_DOCUMENT, detail="the same texts and images stood there before")
            group_key = (item.split, item.source)
            after = len(result.issues)
            result.contents.append(ContentOccurrence(_hash64(digest), None, issue, group_key, after))

    def _check_contents(self, item: RecordItem, texts: list[str], usable: set[str], result: ChunkResult) -> None:
        """List a missing text, and a missing or unusable image."""
        has_names = bool(body_image_names(item.body))
        labels = item.body.labels.values() if isinstance(item.body, CaptionedImage) else ()
        has_words = any(text.strip() for text in (*texts, *labels))
        if not has_words and not has_names:
            self._add_issue(item, why.EMPTY, result, detail="neither words nor images")
            return
        if not has_words:
            self._add_issue(item, why.NO_TEXT, result, detail="images, but no words")
        if not _has_usable_image(item.body, usable, self._limits.similarity_threshold):
            detail = "no image is readable and similar enough to a sentence" if has_names else "no image is named"
            self._add_issue(item, why.NO_IMAGE, result, detail=detail)

    def _check_image(self, item: RecordItem, name: str, result: ChunkResult) -> bytes | None:
        """sha256 of a usable image; None where an issue was listed."""
        try:
            data = self._image_bytes(item, name)
            image = decode_image(data, name, max_pixels=self._limits.max_image_pixels)
        except StoreError:
            raise
        except UserError as error:
            self._add_issue(item, image_issue_reason(error), result, name, str(error))
            return None
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            # names that no file can have, links in a circle, no memory: one image does not end the validation
            detail = f"{name}: it cannot be read ({type(error).__name__})"
            self._add_issue(item, why.UNREADABLE, result, name, detail)
            return None
        result.counts.image_bytes += len(data)
        result.counts.histograms["image_side"].add(min(image.size))
        _count_image_traits(data, result.counts)
        digest = hashlib.sha256(data).digest()
        reference = _hash64(_digest(_image_namespace(item), _encode(name), digest))
        issue = _make_issue(item, why.DUPLICATE_IMAGE, name, f"{name}: the same bytes stood there before")
        group_key, after = (item.split, item.source), len(result.issues)
        result.contents.append(ContentOccurrence(_hash64(digest), reference, issue, group_key, after))
        if min(image.size) < self._limits.min_image_side:
            detail = f"{name}: {image.width} x {image.height} pixels"
            self._add_issue(item, why.TOO_SMALL, result, name, detail)
            return None
        return digest

    def _image_bytes(self, item: RecordItem, name: str) -> bytes:
        """Raises: UserError."""
        if item.images is None:
            assert self._corpus is not None, "a corpus sends its items without images"
            data: bytes | LoadError = self._corpus.image_bytes(name)
        else:
            data = item.images.get(name, LoadError("file_missing", f"{name}: no such image comes with the record"))
        if isinstance(data, LoadError):
            raise UserError(data.message, code=data.code)
        most = self._limits.max_image_bytes
        if len(data) > most:
            raise UserError(f"the file is larger than {most:,} bytes", code="file_too_large", file=name)
        return data

    def _length(self, text: str) -> int:
        return len(text.split()) if self._tokenizer is None else len(self._tokenizer.encode(text))

    @staticmethod
    def _add_issue(item: RecordItem, reason: str, result: ChunkResult, image: str = "", detail: str = "") -> None:
        result.add_issue(_make_issue(item, reason, image, detail), item.split, item.source)


def _has_usable_image(body: Body, usable: set[str], threshold: float) -> bool:
    """Whether an image is usable and, for matched ones, similar enough to an existing sentence."""
    if not isinstance(body, MatchedDocument):
        return bool(usable)
    return any(
        match.image in usable and match.similarity >= threshold and 0 <= match.sentence < len(body.sentences)
        for match in body.matches
    )


def _make_issue(item: RecordItem, reason: str, image: str = "", detail: str = "") -> Issue:
    return Issue(*split_record_id(item.id), f"{item.id}#{image}" if image else item.id, reason, detail)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _digest(*parts: bytes) -> bytes:
    """sha256 over the parts, each after its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


def _image_namespace(item: RecordItem) -> bytes:
    """Scope in which an image's name is unique: the corpus, or else the record."""
    return b"" if item.images is None else _encode(item.id)


def _hash64(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _count_image_traits(data: bytes, counts: CorpusCounts) -> None:
    """Count the file's format and the traits that decoding had to handle."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        counts.formats[image.format or "?"] += 1
        traits = {
            "CMYK": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "16-bit": image.mode.startswith("I"),
            "transparency": image.has_transparency_data,
            "animated": bool(getattr(image, "is_animated", False)),
            "EXIF orientation": _is_rotated(image),
        }
    counts.traits.update(name for name, present in traits.items() if present)


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF raises anything; the image itself was decoded
        return False
