"""Documents and records in memory, and the checks of their JSON form.

``Document`` is one sequence of texts and images in reading order; every layout starts from it. ``Record`` is what a
format reader yields: a document or a captioned image whose image files are not read yet. ``check_document`` and
``check_pair`` validate one line of a JSON-lines corpus and return the problem, or None. ``ImageSubject`` is what a
record says of an image's contents apart from its texts: name, keywords and concept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from lcl_core.common.errors import UserError

DEFAULT_SPLIT = "train"
_HELD_OUT = ("val", "test")
_LARGEST_SIMILARITY = 1_000_000  # cosines are at most 1; scores on another scale pass
PAIR_FIELDS = frozenset(("image", "captions", "labels", "split", "source"))
_WORD = re.compile(r"[^\W\d_]{3,}")
_FUNCTION_WORDS = frozenset(("and", "for", "from", "not", "the", "with", "without"))


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
class ImageSubject:
    """What a record says of an image's contents.

    Attributes:
        name: of what it shows; empty: not known.
        keywords: single terms that say what it shows.
        concept: equal for images of the same thing by other artists; empty: not known.
        attributes: adjectives that are true of this image, such as its colour; a name or keyword may follow one.
    """

    name: str = ""
    keywords: tuple[str, ...] = ()
    concept: str = ""
    attributes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields that are known."""
        fields = {
            "name": self.name,
            "keywords": list(self.keywords),
            "concept": self.concept,
            "attributes": list(self.attributes),
        }
        return {name: value for name, value in fields.items() if value}

    @staticmethod
    def from_json(value: Any) -> ImageSubject:
        """Of an object with any of the fields. Fields of another type count as absent: they are of a foreign corpus."""
        fields = value if isinstance(value, Mapping) else {}
        name, concept = (fields.get(key) for key in ("name", "concept"))
        return ImageSubject(
            name if isinstance(name, str) else "",
            _terms(fields.get("keywords")),
            concept if isinstance(concept, str) else "",
            _terms(fields.get("attributes")),
        )


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """A captioned image of a corpus.

    Attributes:
        image: name under ``images/``.
        captions: alternative texts, maybe none.
        labels: classes by kind, such as ``{"subgroup": "bugs"}``.
        source: part of the corpus, maybe empty.
        extra: the line's other fields, ``name``, ``keywords`` and ``attributes`` among them.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> ImageSubject:
        """``name``, ``keywords`` and ``attributes`` of the line, and its label ``concept``.

        Without ``keywords``, they are those of a caption ``NAME: a, b``, where NAME is another caption, and the words
        of the name, which such a list leaves out.
        """
        given = ImageSubject.from_json(self.extra)
        name, listed = _listed_keywords(self.captions)
        keywords = given.keywords if self.extra.get("keywords") is not None else listed
        return ImageSubject(given.name or name, keywords, self.labels.get("concept", ""), given.attributes)


@dataclass(frozen=True, slots=True)
class RecordImage:
    """An image of a record.

    Attributes:
        name: unique within its record.
        load: returns the file's bytes, bounded. Raises: UserError when they are not available.
        decodes: whether these bytes have been decoded, so that who stores them need not try.
    """

    name: str
    load: Callable[[], bytes]
    decodes: bool = False


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


def _listed_keywords(captions: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Name and keywords of a caption ``NAME: a, b``; ("", ()) where no caption is of this form."""
    for name in captions:
        for caption in captions:
            if name.strip() and caption.startswith(f"{name}: "):
                listed = (word.strip() for word in caption[len(name) + 2 :].split(","))
                return name, tuple(dict.fromkeys([*name_words(name), *(word for word in listed if word)]))
    return "", ()


def name_words(name: str) -> tuple[str, ...]:
    """Words of a name of several: those of three letters or more, without function words."""
    return tuple(word for word in _WORD.findall(name) if word != name and word.lower() not in _FUNCTION_WORDS)


def add_subjects(document: dict[str, Any], find_pair: Callable[[str], CaptionPair | None]) -> dict[str, Any]:
    """A document whose images that are also captioned images have their ``subject``.

    Name and keywords are added only where the image's sentence is one of its captions: only then may another caption
    replace it. An image of a matched document that has a subject keeps it. In a sequence the sentence is the text after
    the image, or else the one before it, that is a caption of it and of no image before; its number is added as
    ``caption``. A malformed document is returned as it is.

    Args:
        find_pair: the captioned image of a name, or None.
    """
    if "segments" in document:
        return _add_sequence_subjects(document, find_pair)
    if check_document(document) is not None:
        return document
    texts, images = document["text_list"], document["image_info"]
    described = []
    for image in images:
        pair = None if "subject" in image else find_pair(image["image_name"])
        if pair is not None:
            sentence, subject = image["matched_text_index"], pair.subject
            if not (0 <= sentence < len(texts) and texts[sentence] in pair.captions):
                subject = ImageSubject(concept=subject.concept)
            image = {**image, "subject": subject.to_json()}
        described.append(image)
    return {**document, "image_info": described}


def _add_sequence_subjects(document: dict[str, Any], find_pair: Callable[[str], CaptionPair | None]) -> dict[str, Any]:
    try:
        segments = parse_segments(document)
    except UserError:
        return document
    entries: list[dict[str, Any]] = []
    claimed: set[int] = set()
    for number, segment in enumerate(segments):
        if isinstance(segment, TextSegment):
            entries.append({"text": segment.text})
            continue
        entry: dict[str, Any] = {"image": segment.name}
        pair = find_pair(segment.name)
        for beside in () if pair is None else (number + 1, number - 1):
            text = segments[beside] if 0 <= beside < len(segments) and beside not in claimed else None
            if pair is not None and isinstance(text, TextSegment) and text.text in pair.captions:
                claimed.add(beside)
                entry |= {"subject": pair.subject.to_json(), "caption": beside}
                break
        entries.append(entry)
    return {**document, "segments": entries}


def illustrated_texts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Each image of a document with the text that it belongs to, which may be empty.

    That is the sentence that it is matched to; in a sequence the text after it, or else the one before it.

    Raises: UserError ``bad_document``.
    """
    if "segments" not in document:
        if problem := check_document(document):
            raise UserError(problem, code="bad_document")
        texts = document["text_list"]
        places = [(image["image_name"], image["matched_text_index"]) for image in document["image_info"]]
        return [(name, texts[place] if 0 <= place < len(texts) else "") for name, place in places]
    segments = parse_segments(document)
    found = []
    for number, segment in enumerate(segments):
        if isinstance(segment, ImageSegment):
            beside = (*segments[number + 1 : number + 2], *segments[max(0, number - 1) : number])
            texts = [each.text for each in beside if isinstance(each, TextSegment) and each.text.strip()]
            found.append((segment.name, texts[0] if texts else ""))
    return found


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


def is_held_out(split: str) -> bool:
    """Whether documents of a split are left out of training: its name begins with ``val`` or ``test``."""
    return split.startswith(_HELD_OUT)


def document_split(file: str) -> str:
    """Split of the documents of a file ``interleaved.jsonl``, ``interleaved/NAME.jsonl`` or ``interleaved/NAME/…``.

    That is NAME if it is the name of a held-out split, or else "train".
    """
    name = file.removeprefix("interleaved/").partition("/")[0].removesuffix(".jsonl")
    return name if is_held_out(name) else DEFAULT_SPLIT


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
    similarity: Any = image.get("matched_sim")
    if not is_number(similarity, (int, float)) or abs(similarity) > _LARGEST_SIMILARITY:
        return f".matched_sim must be a number of at most {_LARGEST_SIMILARITY:,}"
    subject = image.get("subject", {})
    problem = check_subject(subject) if isinstance(subject, dict) else "must be an object"
    return None if problem is None else f".subject {problem}"


def check_subject(fields: dict[str, Any]) -> str | None:
    """The optional ``name``, ``keywords``, ``concept`` and ``attributes`` of an image; null counts as absent."""
    wrong = [key for key in ("name", "concept") if not isinstance(fields.get(key), str | None)]
    if wrong:
        return f"{wrong[0]} must be a string"
    lists = [key for key in ("keywords", "attributes") if fields.get(key) is not None]
    return next((f"{key} must be a list of strings" for key in lists if not _is_list_of_strings(fields[key])), None)


def check_pair(pair: dict[str, Any]) -> str | None:
    """A captioned image: ``image``, ``captions``; maybe ``labels``, ``split``, ``source`` and fields of its subject."""
    if not isinstance(pair.get("image"), str) or not pair["image"]:
        return "image must be a file name"
    captions, labels = pair.get("captions"), pair.get("labels", {})
    if not _is_list_of_strings(captions):
        return "captions must be a list of strings"
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        return "labels must be an object whose values are strings"
    wrong = [key for key in ("split", "source") if not isinstance(pair.get(key, ""), str)]
    if wrong:
        return f"{wrong[0]} must be a string"
    return check_subject({key: pair.get(key) for key in ("name", "keywords", "attributes")})


def _terms(value: Any) -> tuple[str, ...]:
    return tuple(term for term in value if term.strip()) if _is_list_of_strings(value) else ()


def _is_list_of_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a JSON value is of ``kind`` and no boolean."""
    return isinstance(value, kind) and not isinstance(value, bool)
