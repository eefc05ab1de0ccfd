"""Documents and records in memory, and the checks of their JSON form.

``Document`` is one sequence of texts and images in reading order; every layout starts from it. ``Record`` is what a
format reader yields: a document or a captioned image whose image files are not read yet. ``check_document`` and
``check_pair`` validate one line of a JSON-lines corpus and return the problem, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcl_core.common.errors import UserError

DEFAULT_SPLIT = "train"
PAIR_FIELDS = frozenset(("image", "captions", "labels", "split", "source"))


@dataclass(frozen=True, slots=True)
class TextSegment:
    """A text as written, usually one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """An image, by its name under the corpus's ``images/``."""

    name: str


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class Document:
    """Texts and images in reading order."""

    id: str
    segments: tuple[Segment, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images in reading order."""
        return tuple(segment.name for segment in self.segments if isinstance(segment, ImageSegment))

    @property
    def text(self) -> str:
        """All texts, joined by single spaces."""
        return " ".join(segment.text for segment in self.segments if isinstance(segment, TextSegment))


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A captioned image of a corpus.

    Attributes:
        image: name under ``images/``.
        captions: alternative texts, maybe none.
        labels: classes by kind, such as ``{"subgroup": "bugs"}``.
        source: part of the corpus, maybe empty.
        extra: the line's other fields.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordImage:
    """An image of a record.

    Attributes:
        name: unique within its record.
        load: returns the file's bytes, bounded. Raises: UserError when they are not available.
    """

    name: str
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """An image assigned to a sentence (MMC4); ``sentence`` counts from 0, ``similarity`` is from -1 to 1."""

    image: str
    sentence: int
    similarity: float


@dataclass(frozen=True, slots=True)
class MatchedDocument:
    """Sentences and the images assigned to them; training chooses the images and their side of the sentence."""

    sentences: tuple[str, ...]
    matches: tuple[ImageMatch, ...]


@dataclass(frozen=True, slots=True)
class SequenceDocument:
    """Texts and images in their original order."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image with all of its captions and its labels by kind, such as {"class": "tench"}; either may be empty."""

    image: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


Body = MatchedDocument | SequenceDocument | CaptionedImage


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a corpus.

    Attributes:
        id: unique in the corpus and stable, such as ``docs_shard_3_v2.jsonl:17`` or a relative path.
        images: all that the body names.
        split: of the corpus's own splits; "train" where there is none.
        source: part of the corpus; may be empty.
        extra: other fields as they were (url, licence, original captions …), JSON values only.
    """

    id: str
    body: Body
    images: tuple[RecordImage, ...]
    split: str = DEFAULT_SPLIT
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that could not be read: it is counted and goes to the quarantine list.

    Attributes:
        line: from 1; 0: the whole file.
        reason: one of a few phrases, to be counted.
        detail: the particulars.
    """

    file: str
    line: int
    reason: str
    detail: str = ""


def body_texts(body: Body) -> list[str]:
    """Every text of a record body, in order."""
    if isinstance(body, MatchedDocument):
        return list(body.sentences)
    if isinstance(body, CaptionedImage):
        return list(body.captions)
    return [segment.text for segment in body.segments if isinstance(segment, TextSegment)]


def body_image_names(body: Body) -> list[str]:
    """Names of the images, each once, in the order in which the body first names them."""
    if isinstance(body, MatchedDocument):
        names = [match.image for match in body.matches]
    elif isinstance(body, CaptionedImage):
        names = [body.image]
    else:
        names = [segment.name for segment in body.segments if isinstance(segment, ImageSegment)]
    return list(dict.fromkeys(names))


def parse_segments(document: dict[str, Any]) -> tuple[Segment, ...]:
    """``segments`` of a document, ``[{"text": …} | {"image": …}, …]``. Raises: UserError ``bad_document``."""
    segments: list[Segment] = []
    entries = document["segments"]
    for entry in entries if isinstance(entries, list) else [None]:
        value = entry if isinstance(entry, dict) else {}
        if isinstance(value.get("text"), str):
            segments.append(TextSegment(value["text"]))
        elif isinstance(value.get("image"), str):
            segments.append(ImageSegment(value["image"]))
        else:
            raise UserError("segments must be a list of {text} and {image} objects", code="bad_document")
    return tuple(segments)


def check_document(document: dict[str, Any]) -> str | None:
    """An MMC4 document: ``text_list`` and ``image_info`` with name, sentence and similarity of each image."""
    texts, images = document.get("text_list"), document.get("image_info")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "text_list must be a list of strings"
    if not isinstance(images, list):
        return "image_info must be a list of objects"
    problems = (f"image_info[{number}]{problem}" for number, image in enumerate(images) if (problem := _check(image)))
    return next(problems, None)


def _check(image: Any) -> str | None:
    if not isinstance(image, dict):
        return " must be an object"
    if not isinstance(image.get("image_name"), str) or not image["image_name"]:
        return ".image_name must be a file name"
    if not is_number(image.get("matched_text_index"), int):
        return ".matched_text_index must be an integer"
    return None if is_number(image.get("matched_sim"), (int, float)) else ".matched_sim must be a number"


def check_pair(pair: dict[str, Any]) -> str | None:
    """A captioned image: ``image``, ``captions``, and optionally ``labels``, ``split``, ``source``."""
    if not isinstance(pair.get("image"), str) or not pair["image"]:
        return "image must be a file name"
    captions, labels = pair.get("captions"), pair.get("labels", {})
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return "captions must be a list of strings"
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        return "labels must be an object whose values are strings"
    wrong = [key for key in ("split", "source") if not isinstance(pair.get(key, ""), str)]
    return f"{wrong[0]} must be a string" if wrong else None


def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a JSON value is of ``kind`` and no boolean."""
    return isinstance(value, kind) and not isinstance(value, bool)
