"""Validation in a pool of processes: bounded lookahead, results in order, and a worker death costs one record."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Self

from lcl_core.common.errors import UserError
from lcl_core.data.records import BadItem
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation.check import (
    Chunk,
    ReadableCorpus,
    ValidationSource,
    Validator,
    chunk_items,
    count_items,
    iterate_items,
    split_record_id,
)
from lcl_core.data.validation.report import (
    MAX_FIRST_ISSUES,
    WORKER_DIED,
    ChunkResult,
    ContentOccurrence,
    CorpusCounts,
    HashSet,
    Issue,
    QuarantineFile,
    Report,
    ValidationLimits,
    assemble_report,
    new_histograms,
)

MAX_WORKER_DEATHS = 50
ValidatorFactory = Callable[[], Validator]
_validator: Validator | None = None


class ValidatorPool:
    """Examines chunks in ``number`` processes, started anew (never forked); 0: in this one.

    A process that dies (a decoder that crashes, no memory) takes nothing along but the record that it was at: the
    chunks in flight are examined again, and the one that kills is taken apart.

    Args:
        make: gives a process its examiner; it must be picklable.

    Raises, from ``examine``: UserError ``workers_died`` when that happens too often.
    """

    def __init__(self, number: int, make: ValidatorFactory) -> None:
        self.deaths = 0
        self._number = number
        self._make = make
        self._here = make() if number == 0 else None
        self._pool = self._start(number) if number else None

    def check(self, chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        """One part a chunk, in order."""
        if self._here is not None:
            yield from map(self._here.check, chunks)
            return
        pending: deque[tuple[Chunk, Future[ChunkResult]]] = deque()
        for chunk in chunks:
            pending.append((chunk, self._submit(chunk)))
            if len(pending) > 2 * self._number:
                yield self._next(pending)
        while pending:
            yield self._next(pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _start(self, number: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(number, context, _init_worker, (self._make,))

    def _submit(self, chunk: Chunk) -> Future[ChunkResult]:
        assert self._pool is not None
        try:
            return self._pool.submit(_check_chunk, chunk)
        except BrokenExecutor as error:
            broken: Future[ChunkResult] = Future()
            broken.set_exception(error)
            return broken

    def _next(self, pending: deque[tuple[Chunk, Future[ChunkResult]]]) -> ChunkResult:
        chunk, future = pending.popleft()
        try:
            return future.result()
        except BrokenExecutor:
            part = self._alone(chunk)
            self._pool = self._start(self._number)
            for place, (other, _) in enumerate(pending):  # they were lost with the pool
                pending[place] = (other, self._submit(other))
            return part

    def _alone(self, chunk: Chunk) -> ChunkResult:
        """A chunk that was in flight when a process died, in a process of its own; record by record if that dies."""
        with self._start(1) as pool:
            try:
                return pool.submit(_check_chunk, chunk).result()
            except BrokenExecutor as error:
                self.deaths += 1
                if self.deaths > MAX_WORKER_DEATHS:
                    message = "the examining processes keep dying, for lack of memory perhaps; use fewer workers"
                    raise UserError(message, code="workers_died") from error
        if len(chunk) > 1:
            middle = len(chunk) // 2
            return _merge_results(self._alone(chunk[:middle]), self._alone(chunk[middle:]))
        with self._start(1) as pool:
            return pool.submit(_check_chunk, [_worker_death_item(chunk[0])]).result()


def _worker_death_item(item: object) -> BadItem:
    file, line = split_record_id(getattr(item, "id", ""))
    return BadItem(file, line, WORKER_DIED, "the process that examined this record ended; try it by itself")


def _merge_results(first: ChunkResult, second: ChunkResult) -> ChunkResult:
    first.tally.merge(second.tally)
    first.items += second.items
    for name in ("findings", "images", "documents"):
        getattr(first, name).extend(getattr(second, name))
    return first


def _init_worker(make: ValidatorFactory) -> None:
    """In a new process: its examiner, and an end when the parent's comes."""
    global _validator
    _validator = make()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _check_chunk(chunk: Chunk) -> ChunkResult:
    assert _validator is not None, "the process was prepared"
    return _validator.check(chunk)


MAX_WORKERS = 16
OnProgress = Callable[[int, int | None], None]


def validate(
    source: ValidationSource,
    *,
    workers: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    limits: ValidationLimits | None = None,
    tokenizer: Tokenizer | None = None,
    quarantine: Path | None = None,
) -> Report:
    """Examine a corpus. It is read once, in order; memory does not grow with it.

    Args:
        source: an open corpus, a reader, or records.
        workers: processes that decode; 0: this one alone; None: as many as there are cores, at most 16.
        on_progress: told (records done, records in all or None); what it raises ends the examination.
        tokenizer: measures texts in tokens; None: in words.
        quarantine: file for the list of bad items, one JSON object a line.

    Raises:
        UserError: the corpus as a whole cannot be read, or ``workers_died``.
    """
    number = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    limits = limits or ValidationLimits()
    corpus = source if isinstance(source, ReadableCorpus) else None
    started, total = time.monotonic(), count_items(source)
    done = 0
    with (
        QuarantineFile(quarantine, limits.max_quarantined) as listed,
        ValidatorPool(number, partial(Validator, limits, corpus, tokenizer)) as pool,
    ):
        ledger = _ReportBuilder(limits, "words" if tokenizer is None else "tokens", listed)
        for part in pool.check(chunk_items(iterate_items(source))):
            ledger.add_result(part)
            done += part.items
            on_progress(done, total)
        return ledger.close(worker_deaths=pool.deaths, workers=number, seconds=round(time.monotonic() - started, 3))


class _ReportBuilder:
    """The parts put together, in order: the first of equal contents is the original."""

    def __init__(self, limits: ValidationLimits, unit: str, quarantine: QuarantineFile) -> None:
        self._unit = unit
        self._tally = CorpusCounts(new_histograms(unit))
        self._quarantine = quarantine
        self._first: list[Issue] = []
        self._images, self._references, self._documents = (HashSet(limits.max_hashes) for _ in range(3))

    def add_result(self, part: ChunkResult) -> None:
        self._tally.merge(part.tally)
        known = self._images.add([seen.content for seen in part.images])
        again = self._references.add([seen.reference for seen in part.images])
        twice = [seen for seen, old, same in zip(part.images, known, again, strict=True) if old and not same]
        copied = self._documents.add([seen.content for seen in part.documents])
        twice += [seen for seen, old in zip(part.documents, copied, strict=True) if old]
        self._list(part.findings + [self._counted(seen) for seen in twice])

    def close(self, **facts: object) -> Report:
        return assemble_report(
            self._tally,
            self._images,
            self._documents,
            self._unit,
            first=self._first,
            quarantined=self._quarantine.written,
            not_listed=self._quarantine.left_out,
            **facts,
        )

    def _counted(self, seen: ContentOccurrence) -> Issue:
        self._tally.group(*seen.group).reasons[seen.finding.reason] += 1
        return seen.finding

    def _list(self, findings: list[Issue]) -> None:
        self._first += findings[: MAX_FIRST_ISSUES - len(self._first)]
        self._quarantine.add(findings)
