"""Reading a corpus once, in parallel, and saying what it holds and what is wrong with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation.examine import Examiner
from lcl_core.data.validation.findings import Finding, Quarantine
from lcl_core.data.validation.hashes import HashSet
from lcl_core.data.validation.limits import Limits
from lcl_core.data.validation.pool import Workers
from lcl_core.data.validation.report import SHOWN, Report, assemble
from lcl_core.data.validation.tally import Part, Seen, Tally, new_histograms
from lcl_core.data.validation.walk import Readable, Source, chunks_of, items_of, length_of

MOST_WORKERS = 16
OnProgress = Callable[[int, int | None], None]


def validate(
    source: Source,
    *,
    workers: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    limits: Limits | None = None,
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
    number = min(os.cpu_count() or 1, MOST_WORKERS) if workers is None else workers
    limits = limits or Limits()
    corpus = source if isinstance(source, Readable) else None
    started, total = time.monotonic(), length_of(source)
    done = 0
    with (
        Quarantine(quarantine, limits.max_quarantined) as listed,
        Workers(number, partial(Examiner, limits, corpus, tokenizer)) as pool,
    ):
        ledger = _Ledger(limits, "words" if tokenizer is None else "tokens", listed)
        for part in pool.examine(chunks_of(items_of(source))):
            ledger.take(part)
            done += part.items
            on_progress(done, total)
        return ledger.close(worker_deaths=pool.deaths, workers=number, seconds=round(time.monotonic() - started, 3))


class _Ledger:
    """The parts put together, in order: the first of equal contents is the original."""

    def __init__(self, limits: Limits, unit: str, quarantine: Quarantine) -> None:
        self._unit = unit
        self._tally = Tally(new_histograms(unit))
        self._quarantine = quarantine
        self._first: list[Finding] = []
        self._images, self._references, self._documents = (HashSet(limits.max_hashes) for _ in range(3))

    def take(self, part: Part) -> None:
        self._tally.merge(part.tally)
        known = self._images.add([seen.content for seen in part.images])
        again = self._references.add([seen.reference for seen in part.images])
        twice = [seen for seen, old, same in zip(part.images, known, again, strict=True) if old and not same]
        copied = self._documents.add([seen.content for seen in part.documents])
        twice += [seen for seen, old in zip(part.documents, copied, strict=True) if old]
        self._list(part.findings + [self._counted(seen) for seen in twice])

    def close(self, **facts: object) -> Report:
        return assemble(
            self._tally,
            self._images,
            self._documents,
            self._unit,
            first=self._first,
            quarantined=self._quarantine.written,
            not_listed=self._quarantine.left_out,
            **facts,
        )

    def _counted(self, seen: Seen) -> Finding:
        self._tally.group(*seen.group).reasons[seen.finding.reason] += 1
        return seen.finding

    def _list(self, findings: list[Finding]) -> None:
        self._first += findings[: SHOWN - len(self._first)]
        self._quarantine.add(findings)
