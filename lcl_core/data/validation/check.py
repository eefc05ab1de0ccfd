"""Items of a corpus or reader in bounded chunks that can be sent to another process, and the check of one chunk.

Every image is decoded and every text measured.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as ManyOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from lcl_core.common.errors import UserError
from lcl_core.data.image_decoding import FORMATS, decode_image
from lcl_core.data.records import (
    BadItem,
    CaptionedImage,
    ImageMatch,
    ImageSegment,
    MatchedDocument,
    Record,
    SequenceDocument,
    TextSegment,
)
from lcl_core.data.sampling.document_plan import parse_segments
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
    new_histograms,
)

CHUNK_RECORDS = 64
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class LoadError:
    """A picture that could not be loaded, and why."""

    code: str
    message: str

    @classmethod
    def of(cls, error: UserError) -> LoadError:
        return cls(error.code, str(error))

    def error(self) -> UserError:
        return UserError(self.message, code=self.code)


@dataclass(frozen=True, slots=True)
class RecordItem:
    """A record without its loaders.

    Attributes:
        pictures: the files by name; None: whoever examines the item reads them from the corpus.
    """

    id: str
    split: str
    source: str
    body: MatchedDocument | SequenceDocument | CaptionedImage
    pictures: dict[str, bytes | LoadError] | None = None


Chunk = list[RecordItem | BadItem]


@runtime_checkable
class ReadableCorpus(Protocol):
    """An open corpus, in a folder, a zip or shards. It can be sent to another process."""

    path: Path
    documents: Any

    @property
    def all_pairs(self) -> Any: ...

    def image_bytes(self, name: str) -> bytes: ...


ValidationSource = ReadableCorpus | Iterable[Record | BadItem]


def iterate_items(source: ValidationSource) -> Iterator[RecordItem | BadItem]:
    """Every record of the source, in its order."""
    if isinstance(source, ShardedCorpus):
        return _shard_items(source)
    if isinstance(source, ReadableCorpus):
        return _corpus_items(source)
    return _record_items(getattr(source, "records", lambda: source)())


def count_items(source: ValidationSource) -> int | None:
    """How many records there are to come, if that can be told beforehand."""
    if isinstance(source, ShardedCorpus):
        return len(source.index)
    return len(source.documents) + len(source.all_pairs) if isinstance(source, ReadableCorpus) else None


def chunk_items(items: Iterable[RecordItem | BadItem]) -> Iterator[Chunk]:
    """Runs of items, bounded in number and, but for one record, in bytes."""
    chunk: Chunk = []
    held = 0
    for item in items:
        chunk.append(item)
        if isinstance(item, RecordItem) and item.pictures:
            held += sum(len(data) for data in item.pictures.values() if isinstance(data, bytes))
        if len(chunk) >= CHUNK_RECORDS or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def split_record_id(id: str) -> tuple[str, int]:
    """File and line of a record's id, ``FILE:LINE``; other ids are taken for the file."""
    file, colon, line = id.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (id, 0)


def _record_items(records: Iterable[Record | BadItem]) -> Iterator[RecordItem | BadItem]:
    for record in records:
        if isinstance(record, BadItem):
            yield record
            continue
        pictures = {picture.name: _load_image(picture.load) for picture in record.pictures}
        yield RecordItem(record.id, record.split, record.source, record.body, pictures)


def _load_image(load: Any) -> bytes | LoadError:
    try:
        return load()
    except UserError as error:
        return LoadError.of(error)
    except OSError as error:
        return LoadError("file_unreadable", f"the file cannot be read: {error.strerror or error}")


def _corpus_items(corpus: ReadableCorpus) -> Iterator[RecordItem | BadItem]:
    """Documents, then captioned images."""
    documents = corpus.documents
    for place in range(len(documents)):
        try:
            yield _document_item(documents[place], documents.location(place))
        except UserError as error:
            yield _bad_line(error, documents.location(place))
    yield from _pair_items(corpus)


def _pair_items(corpus: ReadableCorpus) -> Iterator[RecordItem | BadItem]:
    """Line by line: ``corpus.pairs()`` gives nothing at all while one of them is malformed."""
    pairs = corpus.all_pairs
    for place in range(len(pairs)):
        try:
            pair = pairs[place]
        except UserError as error:
            yield _bad_line(error, pairs.location(place))
        else:
            body = CaptionedImage(pair.image, pair.captions, pair.labels)
            yield RecordItem(pairs.location(place), pair.split, pair.source, body)


def _shard_items(corpus: ShardedCorpus) -> Iterator[RecordItem | BadItem]:
    """Descriptions alone: whoever examines an item reads its pictures, all of them in one range."""
    for number in range(len(corpus.index)):
        try:
            value = corpus.description(number, with_pictures=False)
            yield RecordItem(value["id"], value["split"], value["source"], decode_body(value, number))
        except UserError as error:
            yield BadItem(error.file or "", 0, "damaged record", error.message)


def _document_item(document: dict[str, Any], id: str) -> RecordItem:
    """Raises: UserError for malformed segments."""
    if "segments" in document:
        return RecordItem(id, "train", "", SequenceDocument(parse_segments(document)))
    matches = tuple(
        ImageMatch(image["image_name"], image["matched_text_index"], float(image["matched_sim"]))
        for image in document["image_info"]
    )
    return RecordItem(id, "train", "", MatchedDocument(tuple(document["text_list"]), matches))


def _bad_line(error: UserError, id: str) -> BadItem:
    """Of a line that is no document or pair."""
    file, line = split_record_id(id)
    return BadItem(file, line, "bad line", error.message)


_KINDS = {MatchedDocument: "matched", SequenceDocument: "sequence", CaptionedImage: "pair"}
_ORIENTATION = 0x0112


class Validator:
    """Examines chunks; one a process.

    Args:
        corpus: where pictures are read that do not come with their item.
        tokenizer: measures texts in tokens; None: in words.
    """

    def __init__(
        self, limits: ValidationLimits, corpus: ReadableCorpus | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self._limits = limits
        self._corpus = corpus
        self._tokenizer = tokenizer
        self.unit = "words" if tokenizer is None else "tokens"

    def check(self, chunk: ManyOf[RecordItem | BadItem]) -> ChunkResult:
        part = ChunkResult(CorpusCounts(new_histograms(self.unit)), items=len(chunk))
        for item in chunk:
            if isinstance(item, BadItem):
                part.findings.append(Issue(item.file, item.line, "", item.reason, item.detail))
                part.tally.group("", "").reasons[item.reason] += 1
            else:
                self._examine(item, part)
        return part

    def _examine(self, item: RecordItem, part: ChunkResult) -> None:
        """A picture counts once a record, however often it stands in it."""
        texts, names = _texts_and_images(item.body)
        usable, contents = set(), []
        for name in dict.fromkeys(names):
            digest = self._picture(item, name, part)
            contents.append(digest or _digest(_image_namespace(item), name.encode("utf-8", "replace")))
            if digest is not None:
                usable.add(name)
        group = part.tally.group(item.split, item.source)
        tokens = sum(map(self._length, texts))
        group.documents += 1
        group.images += len(contents)
        group.tokens += tokens
        part.tally.kinds[_KINDS[type(item.body)]] += 1
        histograms = part.tally.histograms
        histograms["length"].add(tokens)
        histograms["images_per_document"].add(len(contents))
        if isinstance(item.body, MatchedDocument):
            for match in item.body.matches:
                histograms["similarity"].add(match.similarity)
        self._judge(item, texts, usable, part)
        if texts or contents:
            digest = _digest(*(text.encode("utf-8", "replace") for text in texts), b"", *contents)
            finding = _make_issue(item, why.DUPLICATE_DOCUMENT, detail="the same texts and images stood there before")
            part.documents.append(
                ContentOccurrence(_hash64(digest), _hash64(digest), finding, (item.split, item.source))
            )

    def _judge(self, item: RecordItem, texts: ManyOf[str], usable: set[str], part: ChunkResult) -> None:
        """What a document lacks."""
        named = bool(_texts_and_images(item.body)[1])
        labelled = isinstance(item.body, CaptionedImage) and any(value.strip() for value in item.body.labels.values())
        worded = labelled or any(text.strip() for text in texts)
        if not worded and not named:
            self._count(item, _make_issue(item, why.EMPTY, detail="neither words nor images"), part)
            return
        if not worded:
            self._count(item, _make_issue(item, why.NO_TEXT, detail="images, but no words"), part)
        if not _has_usable_image(item.body, usable, self._limits.similarity_threshold):
            detail = "no image is readable and similar enough to a sentence" if named else "no image is named"
            self._count(item, _make_issue(item, why.NO_IMAGE, detail=detail), part)

    def _picture(self, item: RecordItem, name: str, part: ChunkResult) -> bytes | None:
        """sha256 of a usable picture, or None once it is listed with what is wrong."""
        try:
            data = self._bytes(item, name)
            image = decode_image(data, name, max_pixels=self._limits.max_image_pixels)
        except UserError as error:
            self._count(item, _make_issue(item, image_issue_reason(error), name, str(error)), part)
            return None
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            # names that no file can have, links in a circle, no memory: one picture ends no examination
            detail = f"{name}: it cannot be read ({type(error).__name__})"
            self._count(item, _make_issue(item, why.UNREADABLE, name, detail), part)
            return None
        part.tally.image_bytes += len(data)
        part.tally.histograms["image_side"].add(min(image.size))
        _count_image_traits(data, part.tally)
        digest = hashlib.sha256(data).digest()
        reference = _hash64(_digest(_image_namespace(item), name.encode("utf-8", "replace"), digest))
        finding = _make_issue(item, why.DUPLICATE_IMAGE, name, f"{name}: the same bytes stood there before")
        part.images.append(ContentOccurrence(_hash64(digest), reference, finding, (item.split, item.source)))
        if min(image.size) < self._limits.min_image_side:
            detail = f"{name}: {image.width} x {image.height} pixels"
            self._count(item, _make_issue(item, why.TOO_SMALL, name, detail), part)
            return None
        return digest

    def _bytes(self, item: RecordItem, name: str) -> bytes:
        """Raises: UserError."""
        if item.pictures is None:
            assert self._corpus is not None, "a corpus sends its items without pictures"
            data: bytes | LoadError = self._corpus.image_bytes(name)
        else:
            data = item.pictures.get(name, LoadError("file_missing", f"{name}: no such picture comes with the record"))
        if isinstance(data, LoadError):
            raise data.error()
        if len(data) > self._limits.max_image_bytes:
            most = self._limits.max_image_bytes
            raise UserError(f"the file is larger than {most:,} bytes", code="file_too_large", file=name)
        return data

    def _length(self, text: str) -> int:
        return len(text.split()) if self._tokenizer is None else len(self._tokenizer.encode(text))

    @staticmethod
    def _count(item: RecordItem, finding: Issue, part: ChunkResult) -> None:
        part.findings.append(finding)
        part.tally.group(item.split, item.source).reasons[finding.reason] += 1


def _texts_and_images(body: MatchedDocument | SequenceDocument | CaptionedImage) -> tuple[list[str], list[str]]:
    """Texts, and names of images, in their order."""
    if isinstance(body, MatchedDocument):
        return list(body.sentences), [match.image for match in body.matches]
    if isinstance(body, CaptionedImage):
        return list(body.captions), [body.image]
    texts = [segment.text for segment in body.segments if isinstance(segment, TextSegment)]
    return texts, [segment.name for segment in body.segments if isinstance(segment, ImageSegment)]


def _has_usable_image(
    body: MatchedDocument | SequenceDocument | CaptionedImage, usable: set[str], threshold: float
) -> bool:
    """Is there a usable image, and for matched ones a sentence that it may stand at?"""
    if not isinstance(body, MatchedDocument):
        return bool(usable)
    return any(
        match.image in usable and match.similarity >= threshold and 0 <= match.sentence < len(body.sentences)
        for match in body.matches
    )


def _make_issue(item: RecordItem, reason: str, image: str = "", detail: str = "") -> Issue:
    file, line = split_record_id(item.id)
    return Issue(file, line, f"{item.id}#{image}" if image else item.id, reason, detail)


def _digest(*parts: bytes) -> bytes:
    """sha256 over the parts, each after its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


def _image_namespace(item: RecordItem) -> bytes:
    """Within what a picture's name is unique: the corpus, or else its record."""
    return b"" if item.pictures is None else item.id.encode("utf-8", "replace")


def _hash64(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _count_image_traits(data: bytes, tally: CorpusCounts) -> None:
    """Count the file's format, and what decoding had to see to."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        tally.formats[image.format or "?"] += 1
        traits = {
            "CMYK": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "16-bit": image.mode.startswith("I"),
            "transparency": image.has_transparency_data,
            "animated": _is_animated(image),
            "EXIF orientation": _is_rotated(image),
        }
    tally.traits.update(name for name, there in traits.items() if there)


def _is_animated(image: Any) -> bool:
    return bool(getattr(image, "is_animated", False))


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF raises anything; the picture itself was decoded
        return False
