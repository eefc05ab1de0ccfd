"""What a reader of any format gives: one document or captioned image, with its pictures still packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lcl_core.data.document import Segment


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a record.

    Attributes:
        name: unique within its record.
        load: the file's bytes, bounded. Raises: UserError when they cannot be had.
    """

    name: str
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Match:
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
class Matched:
    """Sentences, and images assigned to them: which are kept, and where they stand, is chosen in training."""

    sentences: tuple[str, ...]
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """Texts and images at their true places."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Pair:
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
    body: Matched | Sequence | Pair
    pictures: tuple[Picture, ...]
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
