"""Validation in parts: the same report by any number of processes, after any interruption.

    WORK/completed.jsonl      log of the parts that are complete
    WORK/parts/PART.TOKEN.json.gz  result of a part
    WORK/parts/PART.at        number of the record that an attempt at a part is at; it is left by a process that died
    WORK/parts/PART.deaths    numbers of the records at which processes have died

A record at which two processes have died is left out by the next one: a decoder that crashes costs it alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from lcl_core.data.validation import report as why
from lcl_core.data.validation.report import (
    CorpusCounts,
    Finding,
    Issue,
    PartResult,
    QuarantineFile,
    Report,
    ReportBuilder,
    ValidationLimits,
    new_histograms,
)
from lcl_core.part_runners import Json
from lcl_core.parts import PART_ITEMS, CompletionLog, PartSource, SectionTasks, StartRunner, fingerprint, run_parts

MAX_WORKERS = 16
DEATHS_OF_A_RECORD = 2  # after one, the process may have been killed for another reason, such as the end of the run
_KINDS = {MatchedDocument: "matched", SequenceDocument: "sequence", CaptionedImage: "pair"}


def validate(
    source: Any,
    work: Path | None = None,
    *,
    processes: int = 1,
    runner: StartRunner | None = None,
    limits: ValidationLimits | None = None,
    tokenizer: Tokenizer | None = None,
    quarantine: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
    part_items: int = PART_ITEMS,
) -> Report:
    """Check a corpus, in order; memory does not grow with it, but for the hashes of contents.

    Duplicates are found across parts: the first of equal contents is the original.

    Args:
        source: an open corpus, or a reader.
        work: folder of what is needed to continue; removed at the end. None: an interrupted validation begins anew.
        processes: that read and decode; their number changes no count, and no line of the quarantine list.
        runner: starts what executes the tasks; None: as many processes.
        tokenizer: measures texts in tokens; None: in words.
        quarantine: file for the list of bad items, one JSON object a line.
        on_progress: called with the number of items checked; what it raises interrupts the validation.

    Raises:
        UserError: the corpus as a whole cannot be read, or ``part_failed``.
    """
    started, limits, records = time.monotonic(), limits or ValidationLimits(), part_source(source)
    unit, sections = "words" if tokenizer is None else "tokens", records.sections()
    settings = {"limits": limits.model_dump(mode="json"), "unit": unit, "part_items": part_items}
    with (
        _work_folder(work) as folder,
        CompletionLog(folder, fingerprint(sections, **settings)) as log,
        QuarantineFile(quarantine, limits.max_quarantined) as file,
    ):
        parts, builder = folder / "parts", ReportBuilder(limits, unit, file)
        results = (entry["result"] for entry in log.entries() if entry["kind"] == "part")
        if not all((parts / result["file"]).is_file() for result in results):
            log.discard()
        parts.mkdir(exist_ok=True)
        make = partial(ValidationTasks, records, parts, limits, tokenizer)
        ended = run_parts(
            sections,
            make,
            lambda result: builder.add(_read_result(parts / result["file"])),
            log,
            processes=processes,
            runner=runner,
            part_items=part_items,
            on_progress=on_progress,
        )
        seconds = round(time.monotonic() - started, 3)
        return builder.build(worker_deaths=ended.deaths, workers=processes, seconds=seconds)


@contextmanager
def _work_folder(work: Path | None) -> Iterator[Path]:
    """``work``, which stays if the block raises; None: a temporary folder."""
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield work
        shutil.rmtree(work, ignore_errors=True)


def _read_result(path: Path) -> PartResult:
    return PartResult.model_validate(json.loads(gzip.decompress(path.read_bytes())))


class ValidationTasks(SectionTasks[Record | BadItem]):
    """Handler of the tasks of a validation.

    Args:
        folder: of results of parts.
    """

    def __init__(
        self,
        source: PartSource[Record | BadItem],
        folder: Path,
        limits: ValidationLimits,
        tokenizer: Tokenizer | None,
    ) -> None:
        super().__init__(source)
        self._folder = folder
        # of other corpora, an image's name is unique in its record alone
        self._validator = Validator(limits, tokenizer, isinstance(source, (NativeReader, ShardedRecords)))

    def work(self, name: str, items: Iterator[Record | BadItem], report: Callable[[], None]) -> Json:
        result = PartResult(counts=CorpusCounts(histograms=new_histograms(self._validator.unit)))
        current, deadly = self._folder / f"{name}.at", self._deadly_records(name)
        try:
            with current.open("w") as file:
                for number, item in enumerate(items):
                    file.seek(0)
                    file.write(str(number))
                    file.flush()
                    if number in deadly and isinstance(item, Record):
                        detail = "the process that validated this record ended; try it by itself"
                        item = BadItem(*split_record_id(item.id), why.WORKER_DIED, detail)
                    self._validator.check(item, result)
                    report()
        finally:  # whatever is raised: only a process that died leaves the file
            current.unlink(missing_ok=True)
        path = self._folder / f"{name}.{secrets.token_hex(6)}.json.gz"
        # not pydantic's own JSON: names of files may have bytes that are no text
        data = json.dumps(result.model_dump(), separators=(",", ":")).encode()
        write_atomically(path, gzip.compress(data, 1))
        (self._folder / f"{name}.deaths").unlink(missing_ok=True)
        return {"file": path.name}

    def _deadly_records(self, name: str) -> set[int]:
        """Numbers of the records of a part at which so many processes have died."""
        current, listed = self._folder / f"{name}.at", self._folder / f"{name}.deaths"
        deaths = listed.read_text().split() if listed.exists() else []
        if current.exists() and (number := current.read_text()):
            deaths.append(number)
            listed.write_text("\n".join(deaths))
        return {int(number) for number, count in Counter(deaths).items() if count >= DEATHS_OF_A_RECORD}


class Validator:
    """Checks records: every image is decoded and every text measured.

    Args:
        tokenizer: measures texts in tokens; None: in words.
        shared_names: whether the name of an image means the same image in every record.
    """

    def __init__(
        self, limits: ValidationLimits, tokenizer: Tokenizer | None = None, shared_names: bool = False
    ) -> None:
        self._limits, self._tokenizer, self._shared_names = limits, tokenizer, shared_names
        self.unit = "words" if tokenizer is None else "tokens"

    def check(self, record: Record | BadItem, result: PartResult) -> None:
        """An image counts once a record, however often it occurs in it."""
        if isinstance(record, BadItem):
            issue = Issue(record.file, record.line, "", record.reason, record.detail)
            result.findings.append(Finding(issue=issue))
            return
        texts, usable, contents = body_texts(record.body), set(), []
        for name in body_image_names(record.body):
            digest = self._check_image(record, name, result)
            contents.append(digest or _digest(self._namespace(record), _encode(name)))
            if digest is not None:
                usable.add(name)
        counts, group = result.counts, result.counts.group(record.split, record.source)
        tokens = sum(len(text.split() if self._tokenizer is None else self._tokenizer.encode(text)) for text in texts)
        group.documents += 1
        group.images += len(contents)
        group.tokens += tokens
        counts.kinds[_KINDS[type(record.body)]] += 1
        counts.histograms["length"].add(tokens)
        counts.histograms["images_per_document"].add(len(contents))
        for match in record.body.matches if isinstance(record.body, MatchedDocument) else ():
            counts.histograms["similarity"].add(match.similarity)
        labels = record.body.labels.values() if isinstance(record.body, CaptionedImage) else ()
        has_words = any(text.strip() for text in (*texts, *labels))
        if not has_words and not contents:
            self._add(record, result, why.EMPTY, "neither words nor images")
        else:
            if not has_words:
                self._add(record, result, why.NO_TEXT, "images, but no words")
            if not _has_usable_image(record.body, usable, self._limits.similarity_threshold):
                detail = "no image is readable and similar enough to a sentence" if contents else "no image is named"
                self._add(record, result, why.NO_IMAGE, detail)
        if texts or contents:
            content = _hash64(_digest(*map(_encode, texts), b"", *contents))
            detail = "the same texts and images stood there before"
            self._add(record, result, why.DUPLICATE_DOCUMENT, detail, content=content)

    def _check_image(self, record: Record, name: str, result: PartResult) -> bytes | None:
        """sha256 of a usable image; None where an issue was listed."""
        most = self._limits.max_image_bytes
        try:
            image_file = next((image for image in record.images if image.name == name), None)
            if image_file is None:
                raise UserError(f"{name}: no such image comes with the record", code="file_missing")
            data = image_file.load()
            if len(data) > most:
                raise UserError(f"the file is larger than {most:,} bytes", code="too_large", file=name)
            image = decode_image(data, name, max_pixels=self._limits.max_image_pixels)
        except StoreError:
            raise
        except UserError as error:
            self._add(record, result, why.REASON_BY_CODE.get(error.code, why.UNREADABLE), str(error), name)
            return None
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            # names that no file can have, links in a circle, no memory: one image does not end the validation
            self._add(record, result, why.UNREADABLE, f"{name}: it cannot be read ({type(error).__name__})", name)
            return None
        result.counts.image_bytes += len(data)
        result.counts.histograms["image_side"].add(min(image.size))
        _count_image_traits(data, result.counts)
        digest = hashlib.sha256(data).digest()
        reference = _hash64(_digest(self._namespace(record), _encode(name), digest))
        hashes = {"content": _hash64(digest), "reference": reference}
        self._add(record, result, why.DUPLICATE_IMAGE, f"{name}: the same bytes stood there before", name, **hashes)
        if min(image.size) < self._limits.min_image_side:
            self._add(record, result, why.TOO_SMALL, f"{name}: {image.width} x {image.height} pixels", name)
            return None
        return digest

    @staticmethod
    def _add(record: Record, result: PartResult, reason: str, detail: str, image: str = "", **hashes: int) -> None:
        file, line = split_record_id(record.id)
        issue = Issue(file, line, f"{record.id}#{image}" if image else record.id, reason, detail)
        result.findings.append(Finding(issue=issue, split=record.split, source=record.source, **hashes))

    def _namespace(self, record: Record) -> bytes:
        """Scope in which an image's name is unique: the corpus, or else the record."""
        return b"" if self._shared_names else _encode(record.id)


def split_record_id(id: str) -> tuple[str, int]:
    """File and line of a record id ``FILE:LINE``; any other id counts as the file."""
    file, colon, line = id.rpartition(":")
    return (file, int(line)) if colon and line.isascii() and line.isdigit() else (id, 0)


def _has_usable_image(body: Body, usable: set[str], threshold: float) -> bool:
    """Whether an image is usable and, for matched ones, similar enough to an existing sentence."""
    if not isinstance(body, MatchedDocument):
        return bool(usable)
    return any(
        match.image in usable and match.similarity >= threshold and 0 <= match.sentence < len(body.sentences)
        for match in body.matches
    )


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


def _count_image_traits(data: bytes, counts: CorpusCounts) -> None:
    """Count the file's format and the traits that decoding had to handle."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        try:
            rotated = image.getexif().get(ORIENTATION, 1) in range(2, 9)
        except Exception:  # damaged EXIF raises anything; the image itself was decoded
            rotated = False
        counts.formats[image.format or "?"] += 1
        traits = {
            "CMYK": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "16-bit": image.mode.startswith("I"),
            "transparency": image.has_transparency_data,
            "animated": bool(getattr(image, "is_animated", False)),
            "EXIF orientation": rotated,
        }
    counts.traits.update(name for name, present in traits.items() if present)
