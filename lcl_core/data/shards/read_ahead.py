"""Records of remote shards, fetched by large ranges before they are read.

A thread walks through the blocks that a reader is going to need and starts a request for each, a number of which are
under way at once. The records that arrive stay in memory until the positions that need them have been read. What has
not been started for want of memory is read by a request of its own, as without this.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from lcl_core.data.shards.sharded_corpus import RecordRange, ShardedCorpus

_REQUESTS = 8  # under way at once
_MAX_RANGE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class WantedBlock:
    """Records that a reader needs at about the same time.

    Attributes:
        due: position at which they are needed first.
        positions: those that need a record, for each.
    """

    corpus: ShardedCorpus
    due: int
    positions: Mapping[int, Sequence[int]]


_Key = tuple[int, int]  # corpus, record


@dataclass(slots=True)
class _Record:
    """Attributes: ``readers``: positions that have not been read; ``failed``: the request; it is tried by record."""

    length: int
    readers: int = 0
    data: bytes | None = None
    failed: bool = False


@dataclass
class _Reader:
    """Where the reader is. It takes its positions in ascending order, and its threads overtake each other.

    Attributes:
        span: number of positions below the latest one of which some may not have begun.
        done: those of them that have been read.
    """

    span: int
    latest: int = -1
    busy: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)

    def begin(self, position: int) -> None:
        self.latest = max(self.latest, position)
        self.busy.add(position)

    def end(self, position: int) -> None:
        self.busy.discard(position)
        self.done.add(position)
        if len(self.done) > 2 * self.span:
            self.done = {each for each in self.done if each > self.latest - self.span}

    def is_to_read(self, position: int) -> bool:
        return position in self.busy or (position > self.latest - self.span and position not in self.done)


class ReadAhead:
    """Fetches for one reader of a stream; a context, in which the corpora take records from here.

    Args:
        wanted: what the reader is going to need, in order; computed in a thread.
        corpora: those of which it may need something.
        max_bytes: bound on records that wait and requests under way.
        horizon: how many positions before it is due a block is requested at the earliest.
    """

    def __init__(
        self, wanted: Iterator[WantedBlock], corpora: Iterable[ShardedCorpus], max_bytes: int, horizon: int
    ) -> None:
        self._wanted, self._max_bytes, self._horizon = wanted, max_bytes, horizon
        self._corpora = {id(corpus): corpus for corpus in corpora}
        self._changed = threading.Condition()
        self._bytes = 0  # of records that wait, and of requests under way
        self._records: dict[_Key, _Record] = {}
        self._keys: dict[int, list[_Key]] = {}  # by position
        self._reader = _Reader(horizon)
        self._waits_for: tuple[int, int] | None = None  # due and bytes of what the plan has come to
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._threads = ThreadPoolExecutor(_REQUESTS, "read-ahead")

    def __enter__(self) -> Self:
        for number, corpus in self._corpora.items():
            corpus.held = partial(self._wait_for_record, number)
        threading.Thread(target=self._run, name="read-ahead", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            for corpus in self._corpora.values():
                corpus.held = None
            self._records.clear()
            self._changed.notify_all()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def reading(self, position: int) -> Iterator[None]:
        """While a position is read; afterwards its records are dropped, unless others need them.

        Raises: what the planning of requests raised.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._reader.begin(position)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._reader.end(position)
                for key in self._keys.pop(position, ()):
                    self._drop(key)
                self._changed.notify_all()

    def _drop(self, key: _Key) -> None:
        record = self._records.get(key)
        if record is None:
            return
        record.readers -= 1
        if record.readers == 0:
            del self._records[key]
            if record.data is not None:
                self._bytes -= record.length

    def _wait_for_record(self, corpus: int, number: int) -> bytes | None:
        """A record, waited for if it is under way; None: read it by itself."""
        with self._changed:
            while not self._closed:
                record = self._records.get((corpus, number))
                if record is None:
                    # while the plan goes on, the record may be the next one that it comes to
                    if self._ended or (self._waits_for and self._must_wait(*self._waits_for)):
                        return None
                elif record.failed:
                    return None
                elif record.data is not None:
                    return record.data
                self._changed.wait()
            return None

    def _run(self) -> None:
        try:
            for block in self._wanted:
                ranges = block.corpus.record_ranges(block.positions, min(_MAX_RANGE_BYTES, self._max_bytes))
                with self._changed:
                    self._wait(block.due, 0)
                for part in ranges:
                    if self._closed:
                        return
                    self._request(block, part)
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _must_wait(self, due: int, size: int) -> bool:
        """Whether the reader is not near enough, or there is no room."""
        return due > self._reader.latest + self._horizon or self._bytes + size > self._max_bytes >= size

    def _wait(self, due: int, size: int) -> None:
        """Until a request that is due then may be made. The lock is held."""
        while not self._closed and self._must_wait(due, size):
            self._waits_for = (due, size)
            self._changed.notify_all()
            self._changed.wait()
        self._waits_for = None

    def _request(self, block: WantedBlock, part: RecordRange) -> None:
        """Start a request, unless most of what it would fetch has been read by now."""
        corpus, size = id(block.corpus), part.end - part.start
        with self._changed:
            self._wait(block.due, size)
            left = {
                row.record: [each for each in block.positions[row.record] if self._reader.is_to_read(each)]
                for row in part.records
            }
            new = [row for row in part.records if left[row.record] and (corpus, row.record) not in self._records]
            if self._closed or size > self._max_bytes or 2 * len(new) < len(part.records):
                new = []
            for row in new:
                self._records[corpus, row.record] = _Record(row.length)
            for number, positions in left.items():
                if record := self._records.get((corpus, number)):
                    record.readers += len(positions)
                    for position in positions:
                        self._keys.setdefault(position, []).append((corpus, number))
            if not new:
                return
            self._bytes += size
        records = {row.record: self._records[corpus, row.record] for row in new}
        self._threads.submit(self._fetch, block.corpus, part, records)

    def _fetch(self, corpus: ShardedCorpus, part: RecordRange, records: Mapping[int, _Record]) -> None:
        size = part.end - part.start
        try:
            found = corpus.read_records(part, records)
        except Exception:  # each record is then read by itself, and raises what is wrong with it
            found = {}
        with self._changed:
            self._bytes -= size
            for number, record in records.items():
                if number not in found:
                    record.failed = True
                elif record.readers:
                    record.data = found[number]
                    self._bytes += record.length
            self._changed.notify_all()
