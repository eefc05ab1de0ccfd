"""A captioned image, and a document in MMC4's layout, as the lines of a corpus say them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and the words that belong to it.

    Attributes:
        keywords, long: further words, where the source has them.
        vendor: who drew it, where several drew the same thing.
    """

    image: str
    captions: tuple[str, ...]
    labels: dict[str, str]
    split: str
    source: str
    licence: str
    vendor: str | None = None
    keywords: tuple[str, ...] | None = None
    long: str | None = None

    def to_json(self) -> dict[str, Any]:
        facts = {
            "image": self.image,
            "captions": list(self.captions),
            "keywords": None if self.keywords is None else list(self.keywords),
            "long": self.long,
            "labels": self.labels,
            "vendor": self.vendor,
            "split": self.split,
            "source": self.source,
            "licence": self.licence,
        }
        return {name: value for name, value in facts.items() if value is not None}

    @staticmethod
    def from_json(facts: dict[str, Any]) -> Pair:
        lists: dict[str, Any] = {name: tuple(facts[name]) for name in ("captions", "keywords") if name in facts}
        return Pair(**(facts | lists))


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture of a document.

    Attributes:
        sentence: the one that it is matched to.
        before: the one before which it really stands.
    """

    image: str
    sentence: int
    before: int
    alt: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """Sentences, and pictures matched to some of them by the structure of where they come from: similarity 1."""

    url: str
    source: str
    licence: str
    sentences: tuple[str, ...]
    pictures: tuple[Placed, ...]
    split: str = "train"

    def to_json(self) -> dict[str, Any]:
        images = [
            {
                "image_name": placed.image,
                "raw_url": None,
                "matched_text_index": placed.sentence,
                "matched_sim": 1.0,
                "insert_before": placed.before,
                "alt": placed.alt,
            }
            for placed in self.pictures
        ]
        return {
            "url": self.url,
            "source": self.source,
            "licence": self.licence,
            "text_list": list(self.sentences),
            "image_info": images,
        }


@dataclass(frozen=True, slots=True)
class Built:
    """What a source gives."""

    pairs: Sequence[Pair] = ()
    documents: Sequence[Document] = ()


def line_of(facts: dict[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False) + "\n"
