"""Documents and records in memory, and the checks of their JSON form.

``Document`` is one sequence of texts and images in reading order; every layout starts from it. ``Record`` is what a
format reader yields: a document or a captioned image whose image files are not read yet. ``check_document`` and
``check_pair`` validate one line of a JSON-lines corpus and return the problem, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TextSegment:
    """One stretch of text as written, usually a sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """One picture, by its name under the corpus's ``images/``."""

    name: str


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, slots=True)
class Document:
    """Texts and images in the order in which a reader meets them."""

    id: str
    segments: tuple[Segment, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the pictures in reading order."""
        return tuple(segment.name for segment in self.segments if isinstance(segment, ImageSegment))

    @property
    def text(self) -> str:
        """The texts alone, joined by single spaces."""
        return " ".join(segment.text for segment in self.segments if isinstance(segment, TextSegment))


@dataclass(frozen=True, slots=True)
class RecordImage:
    """An image of a record.

    Attributes:
        name: unique within its record.
        load: the file's bytes, bounded. Raises: UserError when they cannot be had.
    """

    name: str
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ImageMatch:
    """An image that a corpus assigns to a sentence (MMC4), to be placed when the document is laid out.

    Attributes:
        image: name of the picture.
        sentence: number of the sentence, from 0.
        similarity: of picture and sentence, -1 to 1.
    """

    image: str
    sentence: int
    similarity: float


@dataclass(frozen=True, slots=True)
class MatchedDocument:
    """Sentences, and images assigned to them: which are kept, and where they stand, is chosen in training."""

    sentences: tuple[str, ...]
    matches: tuple[ImageMatch, ...]


@dataclass(frozen=True, slots=True)
class SequenceDocument:
    """Texts and images at their true places."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image with its captions and labels; either may be empty.

    Attributes:
        image: name of the picture.
        captions: every caption of the image.
        labels: class by kind of label, such as {"class": "tench"}.
    """

    image: str
    captions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """One item of a corpus.

    Attributes:
        id: unique in the corpus and stable, such as ``docs_shard_3_v2.jsonl:17`` or a relative path.
        body: what it is.
        pictures: all that the body names.
        split: of the corpus's own splits; "train" where there is none.
        source: which part of the corpus it comes from; may be empty.
        extra: fields kept as they were (url, licence, original captions …), JSON values only.
    """

    id: str
    body: MatchedDocument | SequenceDocument | CaptionedImage
    pictures: tuple[RecordImage, ...]
    split: str = "train"
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that could not be read, and why: it goes to the quarantine list and is counted.

    Attributes:
        file, line: where it stands; line 0: the whole file.
        reason: one of a few phrases, to be counted.
        detail: the particulars.
    """

    file: str
    line: int
    reason: str
    detail: str = ""


def check_document(document: dict[str, Any]) -> str | None:
    """An MMC4 document: ``text_list`` and ``image_info`` with name, sentence and similarity of each image."""
    texts = document.get("text_list")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "text_list must be a list of strings"
    images = document.get("image_info")
    if not isinstance(images, list):
        return "image_info must be a list of objects"
    for number, image in enumerate(images):
        problem = _check_image(image)
        if problem is not None:
            return f"image_info[{number}]{problem}"
    return None


def _check_image(image: Any) -> str | None:
    if not isinstance(image, dict):
        return " must be an object"
    if not isinstance(image.get("image_name"), str) or not image["image_name"]:
        return ".image_name must be a file name"
    if not _is_number(image.get("matched_text_index"), int):
        return ".matched_text_index must be an integer"
    if not _is_number(image.get("matched_sim"), (int, float)):
        return ".matched_sim must be a number"
    return None


def check_pair(pair: dict[str, Any]) -> str | None:
    """A captioned image: ``image``, ``captions``, and optionally ``labels``, ``split``, ``source``."""
    if not isinstance(pair.get("image"), str) or not pair["image"]:
        return "image must be a file name"
    captions = pair.get("captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return "captions must be a list of strings"
    labels = pair.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        return "labels must be an object whose values are strings"
    for key in ("split", "source"):
        if not isinstance(pair.get(key, ""), str):
            return f"{key} must be a string"
    return None


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
