"""Counts of the records of a corpus: what the row of a dataset shows of it.

Counts of the parts of a corpus, merged in order, are those of the whole.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lcl_core.data.records import CaptionedImage, MatchedDocument, Record, TextSegment, body_image_names

TOP_VALUES = 20
MAX_DISTINCT_VALUES = 100_000  # different values of a label that are counted separately


class ConversionStatistics:
    """Counts of the records of a corpus, in the form of a dataset's statistics."""

    def __init__(self) -> None:
        self._counts = Counter(documents=0, sentences=0, pairs=0, captions=0, images=0)
        self._splits: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._labels: dict[str, Counter[str]] = {}

    def add(self, record: Record) -> None:
        """Count a record that has been written. Its images without bytes count too, as in the index of the shards."""
        body = record.body
        self._counts["images"] += len(body_image_names(body))
        if isinstance(body, CaptionedImage):
            self._counts["pairs"] += 1
            self._counts["captions"] += len(body.captions)
            self._splits[record.split] += 1
            _add(self._sources, record.source, 1)
            self._count_labels(body)
            return
        self._counts["documents"] += 1
        texts = body.sentences if isinstance(body, MatchedDocument) else body.segments
        self._counts["sentences"] += sum(isinstance(text, str | TextSegment) for text in texts)

    def to_json(self) -> dict[str, Any]:
        labels = {
            name: {"values": len(counts), "most_common": dict(counts.most_common(TOP_VALUES))}
            for name, counts in self._labels.items()
        }
        return {**self._counts, "splits": dict(self._splits), "sources": self._largest_sources(), "labels": labels}

    def counts(self) -> dict[str, Any]:
        """All that was counted, values in the order in which they came."""
        named = {"splits": self._splits, "sources": self._sources}
        return {
            "counts": dict(self._counts),
            **{name: list(counts.items()) for name, counts in named.items()},
            "labels": {name: list(counts.items()) for name, counts in self._labels.items()},
        }

    def merge(self, counts: dict[str, Any]) -> None:
        """Add ``counts`` of records that come after those that were counted here."""
        self._counts.update(counts["counts"])
        self._splits.update(dict(counts["splits"]))
        for value, number in counts["sources"]:
            _add(self._sources, value, number)
        for name, values in counts["labels"].items():
            own = self._labels.setdefault(name, Counter())
            for value, number in values:
                _add(own, value, number)

    def _largest_sources(self) -> dict[str, int]:
        """The largest sources: there may be one a web site."""
        return dict(self._sources.most_common(TOP_VALUES))

    def _count_labels(self, pair: CaptionedImage) -> None:
        for name, value in pair.labels.items():
            _add(self._labels.setdefault(name, Counter()), value, 1)


def _add(counts: Counter[str], value: str, number: int) -> None:
    """Count a value, if it has been counted before or there is room for another."""
    if value in counts or len(counts) < MAX_DISTINCT_VALUES:
        counts[value] += number
