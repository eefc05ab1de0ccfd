"""Validation in parts: the same report by any number of processes, after any interruption.

    WORK/completed.jsonl         log of the tasks that are complete
    WORK/parts/PART.TOKEN.json.gz  result of a part
    WORK/parts/PART.begun        an attempt at a part began, and has not ended

A part whose process has died is checked by a process of its own, whose death costs the record that it was at.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from lcl_core.common.errors import UserError
from lcl_core.common.files import write_atomically
from lcl_core.common.parent_process import exit_with_parent
from lcl_core.data.conversion import part_source
from lcl_core.data.records import BadItem, Record
from lcl_core.data.tokenizer import Tokenizer
from lcl_core.data.validation.check import (
    Chunk,
    ReadableCorpus,
    RecordItem,
    Validator,
    chunk_items,
    item_source,
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
    new_chunk_result,
    new_histograms,
)
from lcl_core.parts.completion_log import CompletionLog
from lcl_core.parts.execute import StartRunner, execute, start_runner
from lcl_core.parts.plan import PART_ITEMS, PartSource, SectionCursor, fingerprint
from lcl_core.parts.runner import Json
from lcl_core.parts.runner import Report as ReportItems
from lcl_core.parts.section_schedule import SectionSchedule

MAX_WORKERS = 16
MAX_WORKER_DEATHS = 50  # of one part
_validator: Validator | None = None  # of this process, when it is a worker


def validate(
    source: ReadableCorpus | PartSource[Record | BadItem],
    work: Path | None = None,
    *,
    processes: int = 1,
    runner: StartRunner | None = None,
    limits: ValidationLimits | None = None,
    tokenizer: Tokenizer | None = None,
    quarantine: Path | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
    part_items: int = PART_ITEMS,
) -> Report:
    """Check a corpus, in order; memory does not grow with it, but for the hashes of contents.

    Duplicates are found across parts: the first of equal contents is the original.

    Args:
        source: an open corpus, or a reader.
        work: folder of what is needed to continue; removed at the end. None: an interrupted validation begins anew.
        processes: that read and decode; their number changes no count, and no line of the quarantine list.
        runner: starts what executes the tasks; None: :func:`start_runner`.
        tokenizer: measures texts in tokens; None: in words.
        quarantine: file for the list of bad items, one JSON object a line.
        on_progress: called with the number of items checked; what it raises interrupts the validation.

    Raises:
        UserError: the corpus as a whole cannot be read, ``workers_died`` or ``part_failed``.
    """
    started, limits = time.monotonic(), limits or ValidationLimits()
    unit = "words" if tokenizer is None else "tokens"
    settings = {"limits": limits.model_dump(mode="json"), "unit": unit, "part_items": part_items}
    key = fingerprint(part_source(source).sections(), **settings)
    deaths = 0

    def merge(result: Json) -> None:
        nonlocal deaths
        deaths += result["deaths"]
        builder.add_result(_read_result(parts / result["file"]))

    with (
        _work_folder(work) as folder,
        CompletionLog(folder, key) as log,
        QuarantineFile(quarantine, limits.max_quarantined) as file,
    ):
        parts = folder / "parts"
        if not _holds(log, parts):
            log.discard()
        parts.mkdir(exist_ok=True)
        builder, items = ReportBuilder(limits, unit, file), item_source(source)
        schedule = SectionSchedule(items.sections(), merge, part_items, processes)
        for entry in log.entries():
            schedule.restore(entry["arguments"], entry["result"])
        corpus = source if isinstance(source, ReadableCorpus) else None
        make = partial(ValidationTasks, items, parts, limits, corpus, tokenizer)
        with (runner or start_runner(processes))(make) as running:
            execute(schedule, running, log, on_progress)
        on_progress(schedule.items)
        seconds = round(time.monotonic() - started, 3)
        return builder.build(worker_deaths=deaths + running.deaths, workers=processes, seconds=seconds)


@contextmanager
def _work_folder(work: Path | None) -> Iterator[Path]:
    """``work``, which stays if the block raises; None: a temporary folder."""
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield work
        shutil.rmtree(work, ignore_errors=True)


class ValidationTasks:
    """Handler of the tasks of a validation.

    Args:
        source: the items of the corpus, by section.
        folder: of results of parts.
        corpus: source of images that do not come with their item.
    """

    def __init__(
        self,
        source: PartSource[RecordItem | BadItem],
        folder: Path,
        limits: ValidationLimits,
        corpus: ReadableCorpus | None,
        tokenizer: Tokenizer | None,
    ) -> None:
        self._source, self._folder = source, folder
        self._cursor = SectionCursor(source)
        self._make = partial(Validator, limits, corpus, tokenizer)
        self._unit = "words" if tokenizer is None else "tokens"

    def __call__(self, arguments: Json, report: ReportItems) -> Json:
        if arguments["kind"] == "count":
            return {"items": self._source.count_section(arguments["section"])}
        begun = self._folder / f"{arguments['name']}.begun"
        died = begun.exists()
        begun.touch()
        try:
            return self._check_part(arguments, report, died)
        finally:  # whatever is raised: only a process that died leaves the file
            begun.unlink(missing_ok=True)

    def _check_part(self, arguments: Json, report: ReportItems, died: bool) -> Json:
        result = new_chunk_result(self._unit)
        items = self._cursor.read(arguments["section"], arguments["start"], arguments["limit"])
        with IsolatedValidator(self._make) if died else nullcontext(self._make()) as validator:
            for chunk in chunk_items(items):
                result.merge(validator.check(chunk))
                report(result.items)
            deaths = validator.deaths if isinstance(validator, IsolatedValidator) else 0
        name = f"{arguments['name']}.{secrets.token_hex(6)}.json.gz"
        data = json.dumps(result.to_json(), separators=(",", ":")).encode()
        write_atomically(self._folder / name, gzip.compress(data, 1))
        return {"file": name, "items": self._cursor.items, "ended": self._cursor.ended, "deaths": deaths}


class IsolatedValidator:
    """Checks chunks in a process of its own. If that dies (a decoder that crashes, no memory), the chunk is bisected.

    Args:
        make: makes the validator; it must be picklable.

    Attributes:
        deaths: how often a process has died.
    """

    def __init__(self, make: Callable[[], Validator]) -> None:
        self.deaths = 0
        self._make = make
        self._pool = self._start()

    def check(self, chunk: Chunk) -> ChunkResult:
        """Raises: UserError ``workers_died`` when that happens too often."""
        try:
            return self._pool.submit(_check_chunk, chunk).result()
        except BrokenExecutor as error:
            self.deaths += 1
            if self.deaths > MAX_WORKER_DEATHS:
                message = "the validating processes keep dying, for lack of memory perhaps; use fewer workers"
                raise UserError(message, code="workers_died") from error
        self._pool = self._start()
        if len(chunk) == 1:
            return self.check([_worker_death_item(chunk[0])])
        middle = len(chunk) // 2
        result = self.check(chunk[:middle])
        result.merge(self.check(chunk[middle:]))
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        """Spawned, never forked: the process that asks has threads."""
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _init_worker, (self._make,))


class ReportBuilder:
    """Joins the results in order: the first of equal contents is the original."""

    def __init__(self, limits: ValidationLimits, unit: str, quarantine: QuarantineFile) -> None:
        self._unit, self._quarantine = unit, quarantine
        self._counts = CorpusCounts(new_histograms(unit))
        self._first: list[Issue] = []
        self._images, self._references, self._documents = (HashSet(limits.max_hashes) for _ in range(3))

    def add_result(self, result: ChunkResult) -> None:
        self._counts.merge(result.counts)
        copies = self._find_copies(result.contents)
        for copy in copies:
            self._counts.group(*copy.group).reasons[copy.issue.reason] += 1
        issues = list(_in_order(result.issues, copies))
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

    def _find_copies(self, contents: Sequence[ContentOccurrence]) -> list[ContentOccurrence]:
        """Those that are known, in order."""
        images = [content for content in contents if content.reference is not None]
        known = self._images.add([image.content for image in images])
        same_name = self._references.add([image.reference or 0 for image in images])
        image_copies = iter((known & ~same_name).tolist())
        documents = [content.content for content in contents if content.reference is None]
        document_copies = iter(self._documents.add(documents).tolist())
        return [content for content in contents if next(document_copies if content.reference is None else image_copies)]


def _in_order(issues: Sequence[Issue], copies: Iterable[ContentOccurrence]) -> Iterator[Issue]:
    """Issues and those of copies in the order of the records, whatever chunks these came in."""
    done = 0
    for copy in copies:
        yield from issues[done : copy.after]
        done = copy.after
        yield copy.issue
    yield from issues[done:]


def _read_result(path: Path) -> ChunkResult:
    return ChunkResult.from_json(json.loads(gzip.decompress(path.read_bytes())))


def _holds(log: CompletionLog, folder: Path) -> bool:
    """Whether the results of all parts that the log names are there."""
    return all((folder / entry["result"]["file"]).is_file() for entry in log.entries() if entry["kind"] == "part")


def _worker_death_item(item: object) -> BadItem:
    file, line = split_record_id(getattr(item, "id", ""))
    return BadItem(file, line, WORKER_DIED, "the process that validated this record ended; try it by itself")


def _init_worker(make: Callable[[], Validator]) -> None:
    global _validator
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it to all processes of a job
    _validator = make()
    exit_with_parent()


def _check_chunk(chunk: Chunk) -> ChunkResult:
    assert _validator is not None, "the process was prepared"
    return _validator.check(chunk)
