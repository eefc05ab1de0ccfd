"""Validation in parts: the same report by any number of processes, after any interruption.

WORK/completed.jsonl           log of the parts that are complete
WORK/parts/PART.TOKEN.json.gz  what is counted of each record of a part
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.files import write_atomically
from lcl_core.data.corpus.open import part_source
from lcl_core.data.formats.native import NativeReader
from lcl_core.data.image_decoding import FORMATS, ORIENTATION, decode_image
from lcl_core.data.records import (
    BadItem,
    Body,
    CaptionedImage,
    MatchedDocument,
    Record,
    SequenceDocument,
    body_image_names,
    body_texts,
)
from lcl_core.data.shards.sharded_corpus import ShardedRecords
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation.report import ImageReport, RecordReport, Report, ReportBuilder, examined_record
from lcl_core.part_runners import Json
from lcl_core.parts import PART_ITEMS, CompletionLog, PartSource, SectionTasks, fingerprint, run_parts

MAX_WORKERS = 16
MIN_IMAGE_SIDE = 8  # pixels
SIMILARITY_THRESHOLD = 0.24
UNREADABLE = "unreadable image"
# by the code of an image's UserError; any other code is an unreadable one
REASON_BY_CODE = {
    "bad_path": "forbidden path",
    "file_missing": "missing image",
    "too_large": "image too large",
}
_KINDS = {MatchedDocument: "matched", SequenceDocument: "sequence", CaptionedImage: "pair"}


def validate(
    source: Any,
    work: Path | None = None,
    *,
    processes: int = 1,
    similarity_threshold: float = SIMILARITY_THRESHOLD,
    tokenizer: Tokenizer | None = None,
    quarantine: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
    part_items: int = PART_ITEMS,
) -> Report:
    """Check a corpus, in order; memory does not grow with it, but for the hashes of contents.

    Args:
        source: an open corpus, or a reader.
        work: folder of what is needed to continue; removed at the end. None: an interrupted validation begins anew.
        processes: that read and decode; their number changes neither report nor list.
        similarity_threshold: images matched below this are not usable.
        tokenizer: measures texts in tokens; None: in words.
        quarantine: file for the list of bad items, one JSON object a line.
        on_progress: called with the number of items checked; what it raises interrupts the validation.

    Raises:
        UserError: the corpus as a whole cannot be read, or ``part_failed``.
    """
    records = part_source(source)
    sections = records.sections()
    unit = "words" if tokenizer is None else "tokens"
    settings = {"similarity_threshold": similarity_threshold, "unit": unit, "part_items": part_items}
    with (
        _work_folder(work) as folder,
        CompletionLog(folder, fingerprint(sections, **settings)) as log,
        ReportBuilder(unit, quarantine) as builder,
    ):
        parts = folder / "parts"
        results = (entry["result"] for entry in log.entries() if entry["kind"] == "part")
        if not all((parts / result["file"]).is_file() for result in results):
            log.discard()
        parts.mkdir(exist_ok=True)
        run_parts(
            sections,
            partial(ValidationTasks, records, parts, similarity_threshold, tokenizer),
            lambda result: builder.add(_read_part(parts / result["file"])),
            log,
            processes=processes,
            part_items=part_items,
            on_progress=on_progress,
        )
        return builder.build()


@contextmanager
def _work_folder(work: Path | None) -> Iterator[Path]:
    """``work``, which stays if the block raises; None: a temporary folder."""
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield work
        shutil.rmtree(work, ignore_errors=True)


def _read_part(path: Path) -> list[RecordReport]:
    return [examined_record(value) for value in json.loads(gzip.decompress(path.read_bytes()))]


class ValidationTasks(SectionTasks[Record | BadItem]):
    """Handler of the tasks of a validation. ``folder``: of results of parts."""

    def __init__(
        self,
        source: PartSource[Record | BadItem],
        folder: Path,
        similarity_threshold: float,
        tokenizer: Tokenizer | None,
    ) -> None:
        super().__init__(source)
        self._folder = folder
        # of other corpora, an image's name is unique in its record alone
        shared_names = isinstance(source, (NativeReader, ShardedRecords))
        self._validator = Validator(similarity_threshold, tokenizer, shared_names)

    def work(self, name: str, items: Iterator[Record | BadItem], report: Callable[[], None]) -> Json:
        examined = []
        for item in items:
            examined.append(asdict(self._validator.examine(item)))
            report()
        path = self._folder / f"{name}.{secrets.token_hex(6)}.json.gz"
        write_atomically(path, gzip.compress(json.dumps(examined, separators=(",", ":")).encode(), 1))
        return {"file": path.name}


class Validator:
    """Examines records: every image is decoded and every text measured.

    Args:
        shared_names: whether the name of an image means the same image in every record.
    """

    def __init__(self, similarity_threshold: float, tokenizer: Tokenizer | None, shared_names: bool) -> None:
        self._threshold, self._tokenizer, self._shared_names = similarity_threshold, tokenizer, shared_names

    def examine(self, item: Record | BadItem) -> RecordReport:
        """An image counts once a record, however often it occurs in it."""
        if isinstance(item, BadItem):
            return RecordReport(item.file, item.line, problems=[(item.reason, item.detail)])
        body, texts = item.body, body_texts(item.body)
        namespace = b"" if self._shared_names else _encode(item.id)
        images, contents = [], []
        for name in body_image_names(body):
            image, digest = _examine_image(item, name, namespace)
            images.append(image)
            contents.append(digest or _digest(namespace, _encode(name)))
        usable = {image.name for image in images if image.problem is None}
        labels = body.labels.values() if isinstance(body, CaptionedImage) else ()
        has_words = any(text.strip() for text in (*texts, *labels))
        problems = []
        if not has_words and not images:
            problems.append(("empty document", "neither words nor images"))
        else:
            if not has_words:
                problems.append(("no text", "images, but no words"))
            if not _has_usable_image(body, usable, self._threshold):
                detail = "no image is readable and similar enough to a sentence" if images else "no image is named"
                problems.append(("no usable image", detail))
        encode: Callable[[str], list[Any]] = str.split if self._tokenizer is None else self._tokenizer.encode
        return RecordReport(
            *split_record_id(item.id),
            id=item.id,
            kind=_KINDS[type(body)],
            split=item.split,
            source=item.source,
            length=sum(len(encode(text)) for text in texts),
            similarities=[match.similarity for match in body.matches] if isinstance(body, MatchedDocument) else [],
            images=images,
            content=_hash64(_digest(*map(_encode, texts), b"", *contents)) if texts or images else None,
            problems=problems,
        )


def _examine_image(record: Record, name: str, namespace: bytes) -> tuple[ImageReport, bytes | None]:
    """An image, and its sha256 if it is usable."""
    try:
        image_file = next((image for image in record.images if image.name == name), None)
        if image_file is None:
            raise UserError(f"{name}: no such image comes with the record", code="file_missing")
        data = image_file.load()
        size = decode_image(data, name).size
    except StoreError:
        raise
    except UserError as error:
        return ImageReport(name, problem=(REASON_BY_CODE.get(error.code, UNREADABLE), str(error))), None
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        # names that no file can have, links in a circle, no memory: one image does not end the validation
        detail = f"{name}: it cannot be read ({type(error).__name__})"
        return ImageReport(name, problem=(UNREADABLE, detail)), None
    digest = hashlib.sha256(data).digest()
    reference = _hash64(_digest(namespace, _encode(name), digest))
    format, traits = _image_traits(data)
    image = ImageReport(name, _hash64(digest), reference, len(data), min(size), format, traits)
    if min(size) < MIN_IMAGE_SIDE:
        image.problem = ("image too small", f"{name}: {size[0]} x {size[1]} pixels")
        return image, None
    return image, digest


def _image_traits(data: bytes) -> tuple[str, list[str]]:
    """The file's format, and what decoding had to handle."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        try:
            rotated = image.getexif().get(ORIENTATION, 1) in range(2, 9)
        except Exception:  # damaged EXIF raises anything; the image itself was decoded
            rotated = False
        traits = {
            "CMYK": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "16-bit": image.mode.startswith("I"),
            "transparency": image.has_transparency_data,
            "animated": bool(getattr(image, "is_animated", False)),
            "EXIF orientation": rotated,
        }
        return image.format or "?", [name for name, present in traits.items() if present]


def _has_usable_image(body: Body, usable: set[str], threshold: float) -> bool:
    """Whether an image is usable and, for matched ones, similar enough to an existing sentence."""
    if not isinstance(body, MatchedDocument):
        return bool(usable)
    return any(
        match.image in usable and match.similarity >= threshold and 0 <= match.sentence < len(body.sentences)
        for match in body.matches
    )


def split_record_id(id: str) -> tuple[str, int]:
    """File and line of a record id ``FILE:LINE``; any other id counts as the file."""
    file, colon, line = id.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (id, 0)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _digest(*parts: bytes) -> bytes:
    """sha256 over the parts, each after its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


def _hash64(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")
