"""One chunk of items examined: every picture decoded, every text measured."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence as ManyOf
from typing import Any

from PIL import Image

from lcl_core.data.document import ImageSegment, TextSegment
from lcl_core.data.images import FORMATS, decode_image
from lcl_core.data.record import BadItem, Matched, Pair, Sequence
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation import findings as why
from lcl_core.data.validation.findings import Finding, reason_of
from lcl_core.data.validation.limits import Limits
from lcl_core.data.validation.tally import Part, Seen, Tally, new_histograms
from lcl_core.data.validation.walk import Item, Readable, Refused, place_of
from lcl_core.errors import UserError

_KINDS = {Matched: "matched", Sequence: "sequence", Pair: "pair"}
_ORIENTATION = 0x0112


class Examiner:
    """Examines chunks; one a process.

    Args:
        corpus: where pictures are read that do not come with their item.
        tokenizer: measures texts in tokens; None: in words.
    """

    def __init__(self, limits: Limits, corpus: Readable | None = None, tokenizer: Tokenizer | None = None) -> None:
        self._limits = limits
        self._corpus = corpus
        self._tokenizer = tokenizer
        self.unit = "words" if tokenizer is None else "tokens"

    def examine(self, chunk: ManyOf[Item | BadItem]) -> Part:
        part = Part(Tally(new_histograms(self.unit)), items=len(chunk))
        for item in chunk:
            if isinstance(item, BadItem):
                part.findings.append(Finding(item.file, item.line, "", item.reason, item.detail))
                part.tally.group("", "").reasons[item.reason] += 1
            else:
                self._examine(item, part)
        return part

    def _examine(self, item: Item, part: Part) -> None:
        """A picture counts once a record, however often it stands in it."""
        texts, names = _contents(item.body)
        usable, contents = set(), []
        for name in dict.fromkeys(names):
            digest = self._picture(item, name, part)
            contents.append(digest or _digest(_owner(item), name.encode("utf-8", "replace")))
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
        if isinstance(item.body, Matched):
            for match in item.body.matches:
                histograms["similarity"].add(match.similarity)
        self._judge(item, texts, usable, part)
        if texts or contents:
            digest = _digest(*(text.encode("utf-8", "replace") for text in texts), b"", *contents)
            finding = _finding(item, why.DUPLICATE_DOCUMENT, detail="the same texts and images stood there before")
            part.documents.append(Seen(_bits(digest), _bits(digest), finding, (item.split, item.source)))

    def _judge(self, item: Item, texts: ManyOf[str], usable: set[str], part: Part) -> None:
        """What a document lacks."""
        named = bool(_contents(item.body)[1])
        labelled = isinstance(item.body, Pair) and any(value.strip() for value in item.body.labels.values())
        worded = labelled or any(text.strip() for text in texts)
        if not worded and not named:
            self._count(item, _finding(item, why.EMPTY, detail="neither words nor images"), part)
            return
        if not worded:
            self._count(item, _finding(item, why.NO_TEXT, detail="images, but no words"), part)
        if not _placed(item.body, usable, self._limits.similarity_threshold):
            detail = "no image is readable and similar enough to a sentence" if named else "no image is named"
            self._count(item, _finding(item, why.NO_IMAGE, detail=detail), part)

    def _picture(self, item: Item, name: str, part: Part) -> bytes | None:
        """sha256 of a usable picture, or None once it is listed with what is wrong."""
        try:
            data = self._bytes(item, name)
            image = decode_image(data, name, max_pixels=self._limits.max_image_pixels)
        except UserError as error:
            self._count(item, _finding(item, reason_of(error), name, str(error)), part)
            return None
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            # names that no file can have, links in a circle, no memory: one picture ends no examination
            detail = f"{name}: it cannot be read ({type(error).__name__})"
            self._count(item, _finding(item, why.UNREADABLE, name, detail), part)
            return None
        part.tally.image_bytes += len(data)
        part.tally.histograms["image_side"].add(min(image.size))
        _note(data, part.tally)
        digest = hashlib.sha256(data).digest()
        reference = _bits(_digest(_owner(item), name.encode("utf-8", "replace"), digest))
        finding = _finding(item, why.DUPLICATE_IMAGE, name, f"{name}: the same bytes stood there before")
        part.images.append(Seen(_bits(digest), reference, finding, (item.split, item.source)))
        if min(image.size) < self._limits.min_image_side:
            detail = f"{name}: {image.width} x {image.height} pixels"
            self._count(item, _finding(item, why.TOO_SMALL, name, detail), part)
            return None
        return digest

    def _bytes(self, item: Item, name: str) -> bytes:
        """Raises: UserError."""
        if item.pictures is None:
            assert self._corpus is not None, "a corpus sends its items without pictures"
            data: bytes | Refused = self._corpus.image_bytes(name)
        else:
            data = item.pictures.get(name, Refused("file_missing", f"{name}: no such picture comes with the record"))
        if isinstance(data, Refused):
            raise data.error()
        if len(data) > self._limits.max_image_bytes:
            most = self._limits.max_image_bytes
            raise UserError(f"the file is larger than {most:,} bytes", code="file_too_large", file=name)
        return data

    def _length(self, text: str) -> int:
        return len(text.split()) if self._tokenizer is None else len(self._tokenizer.encode(text))

    @staticmethod
    def _count(item: Item, finding: Finding, part: Part) -> None:
        part.findings.append(finding)
        part.tally.group(item.split, item.source).reasons[finding.reason] += 1


def _contents(body: Matched | Sequence | Pair) -> tuple[list[str], list[str]]:
    """Texts, and names of images, in their order."""
    if isinstance(body, Matched):
        return list(body.sentences), [match.image for match in body.matches]
    if isinstance(body, Pair):
        return list(body.captions), [body.image]
    texts = [segment.text for segment in body.segments if isinstance(segment, TextSegment)]
    return texts, [segment.name for segment in body.segments if isinstance(segment, ImageSegment)]


def _placed(body: Matched | Sequence | Pair, usable: set[str], threshold: float) -> bool:
    """Is there a usable image, and for matched ones a sentence that it may stand at?"""
    if not isinstance(body, Matched):
        return bool(usable)
    return any(
        match.image in usable and match.similarity >= threshold and 0 <= match.sentence < len(body.sentences)
        for match in body.matches
    )


def _finding(item: Item, reason: str, image: str = "", detail: str = "") -> Finding:
    file, line = place_of(item.id)
    return Finding(file, line, f"{item.id}#{image}" if image else item.id, reason, detail)


def _digest(*parts: bytes) -> bytes:
    """sha256 over the parts, each after its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


def _owner(item: Item) -> bytes:
    """Within what a picture's name is unique: the corpus, or else its record."""
    return b"" if item.pictures is None else item.id.encode("utf-8", "replace")


def _bits(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _note(data: bytes, tally: Tally) -> None:
    """Count the file's format, and what decoding had to see to."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        tally.formats[image.format or "?"] += 1
        traits = {
            "CMYK": image.mode == "CMYK",
            "palette": image.mode in ("P", "PA"),
            "16-bit": image.mode.startswith("I"),
            "transparency": image.has_transparency_data,
            "animated": _animated(image),
            "EXIF orientation": _turned(image),
        }
    tally.traits.update(name for name, there in traits.items() if there)


def _animated(image: Any) -> bool:
    return bool(getattr(image, "is_animated", False))


def _turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF raises anything; the picture itself was decoded
        return False
