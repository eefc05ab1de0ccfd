"""Validation in a pool of processes: bounded lookahead, results in order, and a worker death costs one record."""

from __future__ import annotations

import multiprocessing
import os
import signal
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
from lcl_core.common.threads import usable_cores
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

MAX_WORKERS = 16
MAX_WORKER_DEATHS = 50
ValidatorFactory = Callable[[], Validator]
OnProgress = Callable[[int, int | None], None]
_validator: Validator | None = None  # of this process, when it is a worker


def validate(
    source: ValidationSource,
    *,
    workers: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    limits: ValidationLimits | None = None,
    tokenizer: Tokenizer | None = None,
    quarantine: Path | None = None,
) -> Report:
    """Check a corpus in one pass, in order; memory does not grow with it.

    Args:
        source: an open corpus, a reader, or records.
        workers: processes that decode; 0: this one alone; None: one a core, at most 16.
        on_progress: called with (records done, records in all or None); what it raises ends the validation.
        tokenizer: measures texts in tokens; None: in words.
        quarantine: file for the list of bad items, one JSON object a line.

    Raises:
        UserError: the corpus as a whole cannot be read, or ``workers_died``.
    """
    number = min(usable_cores(), MAX_WORKERS) if workers is None else workers
    limits = limits or ValidationLimits()
    corpus = source if isinstance(source, ReadableCorpus) else None
    started, total, done = time.monotonic(), count_items(source), 0
    with (
        QuarantineFile(quarantine, limits.max_quarantined) as file,
        ValidatorPool(number, partial(Validator, limits, corpus, tokenizer)) as pool,
    ):
        builder = _ReportBuilder(limits, "words" if tokenizer is None else "tokens", file)
        for result in pool.check(chunk_items(iterate_items(source))):
            builder.add_result(result)
            done += result.items
            on_progress(done, total)
        return builder.build(worker_deaths=pool.deaths, workers=number, seconds=round(time.monotonic() - started, 3))


class _ReportBuilder:
    """Joins the results in order: the first of equal contents is the original."""

    def __init__(self, limits: ValidationLimits, unit: str, quarantine: QuarantineFile) -> None:
        self._unit, self._quarantine = unit, quarantine
        self._counts = CorpusCounts(new_histograms(unit))
        self._first: list[Issue] = []
        self._images, self._references, self._documents = (HashSet(limits.max_hashes) for _ in range(3))

    def add_result(self, result: ChunkResult) -> None:
        self._counts.merge(result.counts)
        known = self._images.add([image.content for image in result.images])
        same_name = self._references.add([image.reference for image in result.images])
        copies = [image for image, old, same in zip(result.images, known, same_name, strict=True) if old and not same]
        copied = self._documents.add([document.content for document in result.documents])
        copies += [document for document, old in zip(result.documents, copied, strict=True) if old]
        issues = result.issues + [self._count_copy(copy) for copy in copies]
        self._first += issues[: MAX_FIRST_ISSUES - len(self._first)]
        self._quarantine.add(issues)

    def build(self, **fields: object) -> Report:
        return assemble_report(
            self._counts,
            self._images,
            self._documents,
            self._unit,
            first=self._first,
            quarantined=self._quarantine.written,
            not_listed=self._quarantine.left_out,
            **fields,
        )

    def _count_copy(self, copy: ContentOccurrence) -> Issue:
        self._counts.group(*copy.group).reasons[copy.issue.reason] += 1
        return copy.issue


class ValidatorPool:
    """Checks chunks in ``number`` processes, spawned, never forked; 0: in this one.

    The death of a process (a decoder that crashes, no memory) costs only the record that it was at: the chunks in
    flight are checked again, and the chunk that kills is bisected.

    Args:
        make: makes the validator of a process; it must be picklable.

    Raises, from ``check``: UserError ``workers_died`` when that happens too often.
    """

    def __init__(self, number: int, make: ValidatorFactory) -> None:
        self.deaths = 0
        self._number, self._make = number, make
        self._local = make() if number == 0 else None
        self._pool = self._start(number) if number else None

    def check(self, chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        """One result a chunk, in order."""
        if self._local is not None:
            yield from map(self._local.check, chunks)
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
        return ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _init_worker, (self._make,))

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
            result = self._check_alone(chunk)
            self._pool = self._start(self._number)
            for index, (other, _) in enumerate(pending):  # they were lost with the pool
                pending[index] = (other, self._submit(other))
            return result

    def _check_alone(self, chunk: Chunk) -> ChunkResult:
        """A chunk that was in flight when a process died, in a process of its own; bisected if that dies too."""
        with self._start(1) as pool:
            try:
                return pool.submit(_check_chunk, chunk).result()
            except BrokenExecutor as error:
                self.deaths += 1
                if self.deaths > MAX_WORKER_DEATHS:
                    message = "the validating processes keep dying, for lack of memory perhaps; use fewer workers"
                    raise UserError(message, code="workers_died") from error
        if len(chunk) > 1:
            middle = len(chunk) // 2
            first = self._check_alone(chunk[:middle])
            first.merge(self._check_alone(chunk[middle:]))
            return first
        with self._start(1) as pool:
            return pool.submit(_check_chunk, [_worker_death_item(chunk[0])]).result()


def _worker_death_item(item: object) -> BadItem:
    file, line = split_record_id(getattr(item, "id", ""))
    return BadItem(file, line, WORKER_DIED, "the process that validated this record ended; try it by itself")


def _init_worker(make: ValidatorFactory) -> None:
    global _validator
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it to all processes of a job
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
