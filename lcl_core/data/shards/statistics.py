"""Counts of the records of a corpus: what the row of a dataset shows of it.

Counts of the parts of a corpus, merged in order, are those of the whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lcl_core.data.records import CaptionedImage, MatchedDocument, Record, TextSegment, body_image_names

TOP_VALUES = 20
MAX_DISTINCT_VALUES = 100_000  # different values of a label that are counted separately
MAX_LABELS = 1000  # different labels, likewise


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
            count_value(self._sources, record.source)
            for name, value in body.labels.items():
                count_label(self._labels, name, value)
            return
        self._counts["documents"] += 1
        texts = body.sentences if isinstance(body, MatchedDocument) else body.segments
        self._counts["sentences"] += sum(isinstance(text, str | TextSegment) for text in texts)

    def to_json(self) -> dict[str, Any]:
        return {**self._counts, **largest_groups(self._splits, self._sources, self._labels)}

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
            count_value(self._sources, value, number)
        for name, values in counts["labels"].items():
            for value, number in values:
                count_label(self._labels, name, value, number)


def largest_groups(
    splits: Mapping[str, int], sources: Mapping[str, int], labels: Mapping[str, Counter[str]] | None = None
) -> dict[str, Any]:
    """Splits, sources and labels in the form of a dataset's statistics: of each the ``TOP_VALUES`` with most records.

    There may be as many of each as records. ``values`` is how many there are: of a label always, of splits, sources
    and labels for those that are cut.

    Args:
        labels: {label: {value: records}}; None: they are not counted.
    """
    named: dict[str, Mapping[str, Any]] = {"splits": splits, "sources": sources}
    groups: dict[str, Any] = {name: _largest(counts) for name, counts in named.items()}
    if labels is not None:
        named["labels"] = labels
        groups["labels"] = {
            name: {"values": len(labels[name]), "most_common": _largest(labels[name])}
            for name in _largest({name: counts.total() for name, counts in labels.items()})
        }
    cut = {name: len(counts) for name, counts in named.items() if len(counts) > TOP_VALUES}
    return groups | ({"values": cut} if cut else {})


def _largest(counts: Mapping[str, int]) -> dict[str, int]:
    """In the order in which they came, unless there are too many."""
    return dict(counts) if len(counts) <= TOP_VALUES else dict(Counter(counts).most_common(TOP_VALUES))


def count_label(labels: dict[str, Counter[str]], name: str, value: str, number: int = 1) -> None:
    """Count a value of a label, as far as there is room for another label and another value."""
    if name in labels or len(labels) < MAX_LABELS:
        count_value(labels.setdefault(name, Counter()), value, number)


def count_value(counts: Counter[str], value: str, number: int = 1) -> None:
    """Count a value, if it has been counted before or there is room for another."""
    if value in counts or len(counts) < MAX_DISTINCT_VALUES:
        counts[value] += number
