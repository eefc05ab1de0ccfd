"""Counts of a part of a corpus, which add up to those of the whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from lcl_core.data.validation.findings import Finding
from lcl_core.data.validation.histogram import Histogram, doubling

MAX_GROUPS = 1000
OTHERS = ("(others)", "(others)")


def new_histograms(unit: str) -> dict[str, Histogram]:
    """One a distribution, empty. ``unit``: of lengths, "tokens" or "words"."""
    return {
        "images_per_document": Histogram.of([float(number) for number in range(33)], "images"),
        "length": Histogram.of(doubling(20), unit),
        "similarity": Histogram.of([round(-1 + 0.02 * step, 2) for step in range(101)], "cosine"),
        "image_side": Histogram.of(doubling(14), "pixels"),
    }


@dataclass
class Group:
    """What one split of one source holds."""

    documents: int = 0
    images: int = 0
    tokens: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Group) -> None:
        self.documents += other.documents
        self.images += other.images
        self.tokens += other.tokens
        self.reasons.update(other.reasons)


@dataclass
class Tally:
    """Counts by (split, source), and the distributions."""

    histograms: dict[str, Histogram]
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)
    image_bytes: int = 0

    def group(self, split: str, source: str) -> Group:
        """That group; past a thousand of them, one for all the others."""
        key = (split, source) if (split, source) in self.groups or len(self.groups) < MAX_GROUPS else OTHERS
        return self.groups.setdefault(key, Group())

    def merge(self, other: Tally) -> None:
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for key, group in other.groups.items():
            self.group(*key).merge(group)
        for counter in ("kinds", "formats", "traits"):
            getattr(self, counter).update(getattr(other, counter))
        self.image_bytes += other.image_bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """A content that may stand elsewhere too.

    Attributes:
        content: 64 bits of its sha256.
        reference: 64 bits that also cover its name: the same file named twice is no duplicate.
        finding: what to list if the content was there before.
        group: split and source to count it under.
    """

    content: int
    reference: int
    finding: Finding
    group: tuple[str, str]


@dataclass
class Part:
    """What one chunk gave."""

    tally: Tally
    items: int = 0
    findings: list[Finding] = field(default_factory=list)
    images: list[Seen] = field(default_factory=list)
    documents: list[Seen] = field(default_factory=list)
