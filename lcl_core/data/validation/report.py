"""The report of a validation: counts, distributions, and the problems by reason with the first of them."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, Field

DUPLICATE_IMAGE = "duplicate image"
DUPLICATE_DOCUMENT = "duplicate document"
MAX_GROUPS = 1000
OTHERS = ("(others)", "(others)")
MAX_FIRST_ISSUES = 20
MAX_QUARANTINED = 1_000_000  # lines of the quarantine list
MAX_HASHES = 16_000_000  # contents that later ones are compared with, 8 bytes each


@dataclass(frozen=True, slots=True)
class Issue:
    """A line of the quarantine list. ``line``: 0 for the whole file; ``id``: with ``#NAME`` of an image."""

    file: str
    line: int
    id: str
    reason: str
    detail: str = ""


class HashSet:
    """64-bit hashes in sorted arrays: 8 bytes each, twice that while two arrays are merged.

    Above ``capacity`` nothing is added. Two different contents share a hash with a probability of n²/2^65 among n: 3 in
    a million at 10 million.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._runs: list[np.ndarray] = []  # sorted, each at most half as long as the one before

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: Sequence[int]) -> np.ndarray:
        """Add hashes in order → bool [n]: known before, earlier ones of the same call included."""
        values = np.asarray(hashes, np.uint64)
        unique, first = np.unique(values, return_index=True)
        known = np.ones(len(values), bool)
        known[first] = False
        for run in self._runs:
            index = np.minimum(np.searchsorted(run, values), len(run) - 1)
            known |= run[index] == values
        fresh = unique[~known[first]][: max(0, self.capacity - len(self))]
        if len(fresh):
            self._runs.append(fresh)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            last = self._runs.pop()
            # sorting two sorted halves is a merge for the stable sort
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)), kind="stable")
        return known


class Histogram(BaseModel):
    """Counts of values in fixed bins, their number, sum and extremes.

    Attributes:
        edges: n + 1 rising edges; bin i is edges[i] <= value < edges[i + 1], the last one includes its upper edge.
        counts: of the n bins. A value outside the edges counts in the nearest bin.
        unit: of a value.
    """

    edges: list[float]
    counts: list[int]
    unit: str = ""
    count: int = 0
    total: float = 0.0
    least: float | None = Field(None, description="smallest value seen")
    most: float | None = Field(None, description="largest value seen")

    @classmethod
    def of(cls, edges: Sequence[float], unit: str) -> Histogram:
        """An empty histogram."""
        return cls(edges=list(edges), counts=[0] * (len(edges) - 1), unit=unit)

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        index = bisect_right(self.edges, value) - 1
        self.counts[min(max(index, 0), len(self.counts) - 1)] += 1
        self.count += 1
        self.total += value
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)


def doubling_edges(last: int) -> list[float]:
    """Edges 0, 1, 2, 4, 8 … up to 2**last."""
    return [0.0, *(float(2**power) for power in range(last + 1))]


class GroupCounts(BaseModel):
    """Counts of one split of one source; both empty: items that could not be read at all."""

    split: str
    source: str
    documents: int = 0
    images: int = 0
    tokens: int = 0
    reasons: dict[str, int] = {}


class Report(BaseModel):
    """Counts, distributions and problems of a corpus."""

    documents: int = Field(description="records: documents and captioned images")
    kinds: dict[str, int] = Field(description="records by kind: matched, sequence, pair")
    images: int = Field(description="images named by records, each once a record")
    distinct_images: int = Field(description="different contents among the readable ones, 16 million at most")
    image_bytes: int = Field(description="of the readable ones, encoded")
    image_formats: dict[str, int]
    image_traits: dict[str, int] = Field(description="what decoding had to see to: CMYK, palette, 16-bit …")
    tokens: int = Field(description="of all texts, in length_unit")
    length_unit: str = Field(description="tokens of the tokenizer given, else words")
    reasons: dict[str, int] = Field(description="problems by reason; an item may have several")
    groups: list[GroupCounts] = Field(description="the same by split and source")
    histograms: dict[str, Histogram]
    first: list[Issue] = Field(description="the first lines of the quarantine list")
    quarantined: int = Field(description="lines of the quarantine list")
    not_listed: int = Field(description="problems beyond the list's bound")


@dataclass(slots=True)
class ImageReport:
    """An image of a record.

    Attributes:
        content: 64 bits of the sha256 of its bytes; None: it cannot be read, and ``problem`` says why.
        reference: 64 bits that also cover its name: the same file named twice is no duplicate.
        problem: reason and detail of what makes it unusable.
    """

    name: str
    content: int | None = None
    reference: int = 0
    bytes: int = 0
    side: int = 0
    format: str = ""
    traits: Sequence[str] = ()
    problem: tuple[str, str] | None = None


@dataclass(slots=True)
class RecordReport:
    """What is counted of a record, or of a bad item, which has a file, a line and a problem alone.

    Attributes:
        content: 64 bits of the sha256 of its texts and images; None: it has neither.
        problems: reasons and details.
    """

    file: str
    line: int
    id: str = ""
    kind: str = ""
    split: str = ""
    source: str = ""
    length: int = 0
    similarities: Sequence[float] = ()
    images: Sequence[ImageReport] = ()
    content: int | None = None
    problems: Sequence[tuple[str, str]] = ()


def examined_record(value: dict[str, Any]) -> RecordReport:
    """From what ``asdict`` made of one."""
    return RecordReport(**{**value, "images": [ImageReport(**image) for image in value["images"]]})


class ReportBuilder:
    """Counts examined records in their order: the first of equal contents is the original.

    Args:
        unit: of lengths, "tokens" or "words".
        quarantine: file of the list of issues, one JSON object a line; an older one is replaced. None: no list.
    """

    def __init__(self, unit: str, quarantine: Path | None) -> None:
        self._unit = unit
        self._file = None if quarantine is None else quarantine.open("w", encoding="utf-8", errors="backslashreplace")
        self._written = self._left_out = self._image_bytes = 0
        self._kinds, self._formats, self._traits = Counter[str](), Counter[str](), Counter[str]()
        self._groups: dict[tuple[str, str], GroupCounts] = {}
        self._first: list[Issue] = []
        self._images, self._references, self._documents = (HashSet(MAX_HASHES) for _ in range(3))
        self._histograms = {
            "images_per_document": Histogram.of([float(number) for number in range(33)], "images"),
            "length": Histogram.of(doubling_edges(20), unit),
            "similarity": Histogram.of([round(-1 + 0.02 * step, 2) for step in range(101)], "cosine"),
            "image_side": Histogram.of(doubling_edges(14), "pixels"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, records: Sequence[RecordReport]) -> None:
        images = [image for record in records for image in record.images if image.content is not None]
        known = self._images.add([image.content or 0 for image in images])
        same_name = self._references.add([image.reference for image in images])
        image_copies = iter(known & ~same_name)
        contents = [record.content for record in records if record.content is not None]
        document_copies = iter(self._documents.add(contents))
        for record in records:
            group = self._group(record.split, record.source)
            if record.kind:
                self._count(record, group)
            for image in record.images:
                if image.content is not None:
                    self._image_bytes += image.bytes
                    self._histograms["image_side"].add(image.side)
                    self._formats[image.format] += 1
                    self._traits.update(image.traits)
                    if next(image_copies):
                        detail = f"{image.name}: the same bytes stood there before"
                        self._add_issue(record, group, DUPLICATE_IMAGE, detail, image.name)
                if image.problem is not None:
                    self._add_issue(record, group, *image.problem, image.name)
            for reason, detail in record.problems:
                self._add_issue(record, group, reason, detail)
            if record.content is not None and next(document_copies):
                self._add_issue(record, group, DUPLICATE_DOCUMENT, "the same texts and images stood there before")

    def build(self) -> Report:
        groups = [self._groups[key] for key in sorted(self._groups)]
        reasons = Counter[str]()
        for group in groups:
            group.reasons = dict(sorted(group.reasons.items()))
            reasons.update(group.reasons)
        return Report(
            documents=sum(group.documents for group in groups),
            kinds=dict(sorted(self._kinds.items())),
            images=sum(group.images for group in groups),
            distinct_images=len(self._images),
            image_bytes=self._image_bytes,
            image_formats=dict(self._formats.most_common()),
            image_traits=dict(self._traits.most_common()),
            tokens=sum(group.tokens for group in groups),
            length_unit=self._unit,
            reasons=dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
            groups=groups,
            histograms=self._histograms,
            first=self._first,
            quarantined=self._written,
            not_listed=self._left_out,
        )

    def _group(self, split: str, source: str) -> GroupCounts:
        """That group; past ``MAX_GROUPS`` of them, one for all the others."""
        if len(self._groups) >= MAX_GROUPS and (split, source) not in self._groups:
            split, source = OTHERS
        return self._groups.setdefault((split, source), GroupCounts(split=split, source=source))

    def _count(self, record: RecordReport, group: GroupCounts) -> None:
        group.documents += 1
        group.images += len(record.images)
        group.tokens += record.length
        self._kinds[record.kind] += 1
        self._histograms["length"].add(record.length)
        self._histograms["images_per_document"].add(len(record.images))
        for similarity in record.similarities:
            self._histograms["similarity"].add(similarity)

    def _add_issue(self, record: RecordReport, group: GroupCounts, reason: str, detail: str, image: str = "") -> None:
        group.reasons[reason] = group.reasons.get(reason, 0) + 1
        issue = Issue(record.file, record.line, f"{record.id}#{image}" if image else record.id, reason, detail)
        if len(self._first) < MAX_FIRST_ISSUES:
            self._first.append(issue)
        if self._file is None or self._written >= MAX_QUARANTINED:
            self._left_out += 1
        else:
            self._file.write(json.dumps(asdict(issue), ensure_ascii=False) + "\n")
            self._written += 1
