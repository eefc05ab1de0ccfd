"""The report of a validation: issues, histograms, counts and duplicate detection, all of which add up over parts."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, Field

from lcl_core.data.image_decoding import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from lcl_core.specs.base import Spec

UNREADABLE = "unreadable image"
MISSING = "missing image"
TOO_LARGE = "image too large"
TOO_SMALL = "image too small"
BAD_PATH = "forbidden path"
EMPTY = "empty document"
NO_IMAGE = "no usable image"
NO_TEXT = "no text"
DUPLICATE_IMAGE = "duplicate image"
DUPLICATE_DOCUMENT = "duplicate document"
WORKER_DIED = "worker died"
# codes of UserErrors of an image; any other code is an unreadable one
REASON_BY_CODE = {
    "bad_path": BAD_PATH,
    "file_missing": MISSING,
    "too_large": TOO_LARGE,
}
MAX_GROUPS = 1000
OTHERS = ("(others)", "(others)")
MAX_FIRST_ISSUES = 20


class ValidationLimits(Spec):
    """Bounds of one validation. Items outside are listed, never changed."""

    max_image_bytes: int = Field(MAX_IMAGE_BYTES, ge=1, description="larger files are too large, bytes")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="width x height above this is too large")
    min_image_side: int = Field(8, ge=1, le=4096, description="a shorter side below this is too small, pixels")
    similarity_threshold: float = Field(0.24, ge=-1, le=1, description="images matched below this are not usable")
    max_hashes: int = Field(16_000_000, ge=1024, description="hashes kept to find duplicates exactly, 8 bytes each")
    max_quarantined: int = Field(1_000_000, ge=0, description="lines of the quarantine list; further ones are counted")


@dataclass(frozen=True, slots=True)
class Issue:
    """One item of the quarantine list.

    Attributes:
        line: from 1; 0: the whole file, or not known.
        id: of the record, with ``#`` and the image's name for an issue of one image.
        reason: one of a few phrases.
        detail: the particulars.
    """

    file: str
    line: int
    id: str
    reason: str
    detail: str = ""


class QuarantineFile:
    """``quarantine.jsonl``: one object {file, line, id, reason, detail} a line, at most ``most`` lines.

    Args:
        path: the file; an older one is replaced. None: nothing is written.
    """

    def __init__(self, path: Path | None, most: int) -> None:
        self.written = self.left_out = 0
        self._most = most
        self._file = None if path is None else path.open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, issue: Issue) -> None:
        if self._file is None or self.written >= self._most:
            self.left_out += 1
        else:
            self._file.write(json.dumps(asdict(issue), ensure_ascii=False) + "\n")
            self.written += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class HashSet:
    """64-bit hashes in sorted arrays: 8 bytes each, twice that while two arrays are merged.

    Exact up to ``capacity`` different hashes. Beyond, only those whose lowest bit is 0 are kept and compared, then
    those whose two lowest bits are 0, and so on: memory stays the same, and ``duplicates`` becomes an unbiased
    estimate, since each match counts for as many as were not compared. Two different contents share a hash with a
    probability of n²/2^65 among n: 3 in a million at 10 million.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.duplicates = 0.0
        self._skipped_bits = 0
        self._runs: list[np.ndarray] = []  # sorted, each at most half as long as the one before

    @property
    def share(self) -> float:
        """Share of all hashes that is compared: 1.0 means that ``duplicates`` is exact."""
        return 2.0**-self._skipped_bits

    @property
    def distinct(self) -> float:
        """Different hashes added, an estimate where ``share`` is below 1."""
        return len(self) / self.share

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: Sequence[int]) -> np.ndarray:
        """Add hashes in order → bool [n]: known before, earlier ones of the same call included.

        False for hashes that are not compared.
        """
        values = np.asarray(hashes, np.uint64)
        compared = self._is_compared(values)
        unique, first = np.unique(values, return_index=True)
        known = np.ones(len(values), bool)
        known[first] = False
        for run in self._runs:
            index = np.minimum(np.searchsorted(run, values), len(run) - 1)
            known |= run[index] == values
        known &= compared
        self.duplicates += float(np.count_nonzero(known)) / self.share
        fresh = unique[compared[first] & ~known[first]]
        if len(fresh):
            self._insert(fresh)
        return known

    def _is_compared(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes & np.uint64((1 << self._skipped_bits) - 1)) == 0

    def _insert(self, fresh: np.ndarray) -> None:
        self._runs.append(fresh)
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            last = self._runs.pop()
            # sorting two sorted halves is a merge for the stable sort
            self._runs[-1] = np.sort(np.concatenate((self._runs[-1], last)), kind="stable")
        while len(self) > self.capacity:
            self._skipped_bits += 1
            kept = [run[self._is_compared(run)] for run in self._runs]
            self._runs = [run for run in kept if len(run)]


_SUM_STEPS = 2**20  # sums of multiples of 2^-20 are exact below 2^33, so that they do not depend on their order


class Histogram(BaseModel):
    """Counts of values in fixed bins, their number, sum and extremes; histograms of processes add up.

    Attributes:
        edges: n + 1 rising edges; bin i is edges[i] <= value < edges[i + 1], the last one includes its upper edge.
        counts: of the n bins. A value outside the edges counts in the nearest bin.
        unit: of a value.
    """

    edges: list[float]
    counts: list[int]
    unit: str = ""
    count: int = 0
    total: float = Field(0.0, description="sum of the values, each rounded to a multiple of 2^-20")
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
        self.total += round(value * _SUM_STEPS) / _SUM_STEPS
        self.least = value if self.least is None else min(self.least, value)
        self.most = value if self.most is None else max(self.most, value)

    def merge(self, other: Histogram) -> None:
        """Add the values of one with the same edges."""
        if not other.count:
            return
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.total += other.total
        self.least = min(value for value in (self.least, other.least) if value is not None)
        self.most = max(value for value in (self.most, other.most) if value is not None)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


def doubling_edges(last: int) -> list[float]:
    """Edges 0, 1, 2, 4, 8 … up to 2**last."""
    return [0.0, *(float(2**power) for power in range(last + 1))]


def new_histograms(unit: str) -> dict[str, Histogram]:
    """One empty histogram a distribution. ``unit``: of lengths, "tokens" or "words"."""
    return {
        "images_per_document": Histogram.of([float(number) for number in range(33)], "images"),
        "length": Histogram.of(doubling_edges(20), unit),
        "similarity": Histogram.of([round(-1 + 0.02 * step, 2) for step in range(101)], "cosine"),
        "image_side": Histogram.of(doubling_edges(14), "pixels"),
    }


class GroupCounts(BaseModel):
    """Counts of one split of one source; both empty: items that could not be read at all."""

    split: str
    source: str
    documents: int = 0
    images: int = 0
    tokens: int = 0
    reasons: dict[str, int] = {}

    def merge(self, other: GroupCounts) -> None:
        self.documents += other.documents
        self.images += other.images
        self.tokens += other.tokens


class CorpusCounts(BaseModel):
    """Counts by (split, source), and the distributions."""

    histograms: dict[str, Histogram]
    groups: dict[str, GroupCounts] = {}
    kinds: Counter[str] = Field(default_factory=Counter)
    formats: Counter[str] = Field(default_factory=Counter)
    traits: Counter[str] = Field(default_factory=Counter)
    image_bytes: int = 0

    def group(self, split: str, source: str, most: int | None = None) -> GroupCounts:
        """That group; past ``most`` of them, one for all the others."""
        if most is not None and len(self.groups) >= most and f"{split}\0{source}" not in self.groups:
            split, source = OTHERS
        return self.groups.setdefault(f"{split}\0{source}", GroupCounts(split=split, source=source))

    def merge(self, other: CorpusCounts) -> None:
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for group in other.groups.values():
            self.group(group.split, group.source, MAX_GROUPS).merge(group)
        for counter in ("kinds", "formats", "traits"):
            getattr(self, counter).update(getattr(other, counter))
        self.image_bytes += other.image_bytes


class Finding(BaseModel):
    """An issue; or a content that is one if it was there before.

    Attributes:
        content: 64 bits of its sha256; None: an issue in any case.
        reference: of an image, 64 bits that also cover its name: the same file named twice is no duplicate. None: a
            document.
    """

    issue: Issue
    split: str = ""
    source: str = ""
    content: int | None = None
    reference: int | None = None


class PartResult(BaseModel):
    """Counts and findings of one part, in order of its records."""

    counts: CorpusCounts
    findings: list[Finding] = []


class ReportBuilder:
    """Joins the results of parts in order: the first of equal contents is the original."""

    def __init__(self, limits: ValidationLimits, unit: str, quarantine: QuarantineFile) -> None:
        self._unit, self._quarantine = unit, quarantine
        self._counts = CorpusCounts(histograms=new_histograms(unit))
        self._first: list[Issue] = []
        self._images, self._references, self._documents = (HashSet(limits.max_hashes) for _ in range(3))

    def add(self, result: PartResult) -> None:
        self._counts.merge(result.counts)
        images = [found for found in result.findings if found.reference is not None]
        known = self._images.add([image.content or 0 for image in images])
        same_name = self._references.add([image.reference or 0 for image in images])
        documents = [
            found.content for found in result.findings if found.content is not None and found.reference is None
        ]
        image_copies, document_copies = iter(known & ~same_name), iter(self._documents.add(documents))
        for found in result.findings:
            copies = document_copies if found.reference is None else image_copies
            if found.content is not None and not next(copies):
                continue
            reasons = self._counts.group(found.split, found.source, MAX_GROUPS).reasons
            reasons[found.issue.reason] = reasons.get(found.issue.reason, 0) + 1
            if len(self._first) < MAX_FIRST_ISSUES:
                self._first.append(found.issue)
            self._quarantine.add(found.issue)

    def build(self, **fields: object) -> Report:
        """The report of the whole corpus. ``fields``: those that are no counts."""
        counts, reasons = self._counts, Counter[str]()
        groups = sorted(counts.groups.values(), key=lambda group: (group.split, group.source))
        for group in groups:
            group.reasons = dict(sorted(group.reasons.items()))
            reasons.update(group.reasons)
        totals = {
            "documents": sum(group.documents for group in groups),
            "kinds": dict(sorted(counts.kinds.items())),
            "images": sum(group.images for group in groups),
            "distinct_images": round(self._images.distinct),
            "image_bytes": counts.image_bytes,
            "image_formats": dict(counts.formats.most_common()),
            "image_traits": dict(counts.traits.most_common()),
            "tokens": sum(group.tokens for group in groups),
            "length_unit": self._unit,
            "reasons": dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
            "groups": groups,
            "histograms": counts.histograms,
            "first": self._first,
            "quarantined": self._quarantine.written,
            "not_listed": self._quarantine.left_out,
            "duplicates_examined": min(self._images.share, self._documents.share),
        }
        return Report.model_validate({**totals, **fields})


class Report(BaseModel):
    """Counts, distributions and problems of a corpus."""

    documents: int = Field(description="records: documents and captioned images")
    kinds: dict[str, int] = Field(description="records by kind: matched, sequence, pair")
    images: int = Field(description="images named by records, each once a record")
    distinct_images: int = Field(description="different contents among the readable ones")
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
    duplicates_examined: float = Field(description="share of contents compared; below 1, counts are estimates")
    worker_deaths: int
    workers: int
    seconds: float
