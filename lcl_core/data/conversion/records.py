"""The records of whatever a spec names, counted as they pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from lcl_core.data.document import TextSegment
from lcl_core.data.readers import open_reader
from lcl_core.data.record import BadItem, Matched, Pair, Record
from lcl_core.data.shards import ShardedCorpus
from lcl_core.data.validation.bodies import records_of_shards
from lcl_core.data.validation.walk import Readable

SHOWN = 20
MOST_VALUES = 100_000  # different values of a label that are told apart


def records_of(source: Any) -> Iterable[Record | BadItem]:
    """Of an open corpus, or of a reader."""
    if isinstance(source, ShardedCorpus):
        return records_of_shards(source)
    if isinstance(source, Readable):
        return open_reader(source.path, "native").records()
    return source.records()


class Figures:
    """Counts of records that pass through ``counted``, in the form of a dataset's statistics."""

    def __init__(self) -> None:
        self._counts = Counter(documents=0, sentences=0, pairs=0, captions=0, images=0)
        self._splits: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._labels: dict[str, Counter[str]] = {}

    def counted(self, records: Iterable[Record | BadItem]) -> Iterator[Record | BadItem]:
        for record in records:
            if isinstance(record, Record):
                self._count(record)
            yield record

    def to_json(self) -> dict[str, Any]:
        labels = {
            name: {"values": len(found), "most_common": dict(found.most_common(SHOWN))}
            for name, found in self._labels.items()
        }
        return {**self._counts, "splits": dict(self._splits), "sources": self._shown(), "labels": labels}

    def _shown(self) -> dict[str, int]:
        """The largest sources: there may be one a web site."""
        return dict(self._sources.most_common(SHOWN))

    def _count(self, record: Record) -> None:
        body = record.body
        self._counts["images"] += len(record.pictures)
        if isinstance(body, Pair):
            self._counts["pairs"] += 1
            self._counts["captions"] += len(body.captions)
            self._splits[record.split] += 1
            if record.source in self._sources or len(self._sources) < MOST_VALUES:
                self._sources[record.source] += 1
            self._count_labels(body)
            return
        self._counts["documents"] += 1
        texts = body.sentences if isinstance(body, Matched) else body.segments
        self._counts["sentences"] += sum(isinstance(text, str | TextSegment) for text in texts)

    def _count_labels(self, pair: Pair) -> None:
        for name, value in pair.labels.items():
            found = self._labels.setdefault(name, Counter())
            if value in found or len(found) < MOST_VALUES:
                found[value] += 1
