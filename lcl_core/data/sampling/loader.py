"""Reads the stream ahead of the step, in separate processes, and packs documents into batches without padding.

Loader processes make samples, the trainer packs them in the order of the stream. A sample is a function of its position
alone, so batches do not depend on how many processes and threads there are, and the number may change between attempts.

A batch has a budget of tokens and images. A few documents may wait, of which those are chosen that fill the batch best;
the one that has waited longest always goes first. The state of a rank is one position and the positions of those that
wait, a few dozen integers: a :class:`Cursor`. Positions are those of the stream that all ranks share, so a
different number of ranks can continue from them: :func:`redistribute_cursors`.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from lcl_core.common.errors import UserError
from lcl_core.common.processes import exit_with_parent, usable_cores
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.specs.pretrain import BatchSpec

LOOKAHEAD = 16  # documents that may wait for a batch that they fill
_BEST_FIT_TOKENS = 8192  # room that is filled by choice; before that the oldest documents are added in order
_IMPOSSIBLE = np.int32(1 << 30)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next batch of a rank starts, in positions of the stream that all ranks share.

    Attributes:
        position: next document that this rank has not read; it continues in strides of the number of ranks.
        held: documents before it that are to be used first, in this order.
    """

    position: int = 0
    held: tuple[int, ...] = ()

    def to_json(self) -> list[int]:
        return [self.position, *self.held]

    @staticmethod
    def from_json(value: Any) -> Cursor:
        """Raises: ValueError."""
        if not isinstance(value, list) or not value or not all(type(number) is int for number in value):
            raise ValueError(f"not a cursor: {value!r}")
        return Cursor(value[0], tuple(value[1:]))


def first_cursors(ranks: int, position: int = 0) -> list[Cursor]:
    """Where each rank starts when every document from ``position`` on is unread: rank r reads those ≡ r."""
    return [Cursor(position + (rank - position) % ranks) for rank in range(ranks)]


def redistribute_cursors(cursors: Sequence[Cursor], ranks: int) -> list[Cursor]:
    """The cursors of another number of ranks, which use every document that these have left, and each once.

    Ranks read at different speeds. What the slower ones have not read before the position of the fastest, and what
    waits to be packed, is distributed in the order of the stream and used first.
    """
    stride, end = len(cursors), max(cursor.position for cursor in cursors)
    unread = {number for cursor in cursors for number in range(cursor.position, end, stride)}
    left = sorted(unread.union(*(cursor.held for cursor in cursors)))
    return [Cursor(start.position, tuple(left[rank::ranks])) for rank, start in enumerate(first_cursors(ranks, end))]


@dataclass
class SourceCount:
    """What a batch holds of one source."""

    documents: int = 0
    images: int = 0
    tokens: int = 0


@dataclass
class DocumentBatch:
    """Documents of one step.

    Attributes:
        samples: the documents, in stream order.
        cursor: where the next batch starts.
        skipped: documents left out on the way, by reason.
        left_out: images that could not be read, by error code: those of the documents here, which are used without
            them, and those of documents skipped on the way.
    """

    samples: list[Sample] = field(default_factory=list)
    cursor: Cursor = field(default_factory=Cursor)
    skipped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return sum(len(sample.token_ids) for sample in self.samples)

    @property
    def images(self) -> int:
        return sum(len(sample.levels) for sample in self.samples)

    @property
    def by_source(self) -> dict[int, SourceCount]:
        """Documents, images and tokens by the number of the source in the data spec; only sources that are here."""
        counts: dict[int, SourceCount] = {}
        for sample in self.samples:
            count = counts.setdefault(sample.source, SourceCount())
            count.documents += 1
            count.images += len(sample.levels)
            count.tokens += len(sample.token_ids)
        return counts


def pack_documents(
    stream: Iterable[Sample | SkippedSample],
    start: int | Cursor,
    budget: BatchSpec,
    patience: int = 10_000,
    lookahead: int = LOOKAHEAD,
    stride: int = 1,
) -> Iterator[DocumentBatch]:
    """Batches from the items at ``start.held``, then those at every ``stride``-th position from ``start.position`` on.

    Raises:
        UserError: ``patience`` documents in a row were left out; the reasons are named.
    """
    cursor = Cursor(start) if isinstance(start, int) else start
    return _best_fit(_SampleReader(stream, cursor, budget, patience, stride), budget, lookahead)


class _SampleReader:
    """Usable samples with their positions; the others are counted in ``skipped`` and ``left_out``."""

    def __init__(
        self, stream: Iterable[Sample | SkippedSample], cursor: Cursor, budget: BatchSpec, patience: int, stride: int
    ) -> None:
        self._items = iter(stream)
        self._held = list(reversed(cursor.held))
        self._position, self._stride = cursor.position, stride
        self._budget, self._patience = budget, patience
        self.skipped: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def next(self) -> tuple[int, Sample] | None:
        """None: the stream has ended."""
        for in_a_row, item in enumerate(self._items, start=1):
            if self._held:
                position = self._held.pop()
            else:
                position, self._position = self._position, self._position + self._stride
            reason = item.reason if isinstance(item, SkippedSample) else _too_large(item, self._budget)
            if reason is None:
                assert isinstance(item, Sample)
                return position, item
            self.skipped[reason] += 1
            self.left_out.update(item.left_out)
            if in_a_row >= self._patience:
                message = f"no usable document among {self._patience}: {dict(self.skipped)}"
                raise UserError(message, code="no_data")
        return None

    def cursor(self, waiting: Sequence[int]) -> Cursor:
        """``waiting``: positions that were read and are in no batch yet."""
        return Cursor(self._position, (*waiting, *reversed(self._held)))

    def batch(self, samples: list[Sample], cursor: Cursor) -> DocumentBatch:
        """Close a batch: what was left out since the last one is counted in it."""
        for sample in samples:
            self.left_out.update(sample.left_out)
        batch = DocumentBatch(samples, cursor, self.skipped, self.left_out)
        self.skipped, self.left_out = Counter(), Counter()
        return batch


def _best_fit(reader: _SampleReader, budget: BatchSpec, lookahead: int) -> Iterator[DocumentBatch]:
    """Batches of the documents that wait; ends with a stream that ends, without the last ones."""
    waiting: list[tuple[int, Sample]] = []
    while _fill_waiting(reader, waiting, budget, lookahead):
        chosen = choose_samples([sample for _, sample in waiting], budget)
        samples = [waiting[number][1] for number in chosen]
        used = set(chosen)
        waiting = [each for number, each in enumerate(waiting) if number not in used]
        yield reader.batch(samples, reader.cursor([position for position, _ in waiting]))


def _fill_waiting(reader: _SampleReader, waiting: list[tuple[int, Sample]], budget: BatchSpec, lookahead: int) -> bool:
    """Read until those that wait, except the last ``lookahead`` - 1, would fill a batch if they could be cut anywhere.

    Returns: False if the stream ended before.
    """
    tokens = images = counted = 0
    while True:
        for _, sample in waiting[counted : max(len(waiting) - lookahead + 1, 0)]:
            tokens, images, counted = tokens + len(sample.token_ids), images + len(sample.levels), counted + 1
        if counted and (tokens >= budget.tokens or images >= budget.images):
            return True
        item = reader.next()
        if item is None:
            return False
        waiting.append(item)


def choose_samples(samples: list[Sample], budget: BatchSpec) -> list[int]:
    """Which samples go into a batch, ascending: the first one, and others so that few tokens stay free.

    While much room is left the oldest are added in order; the last of it is filled by the best sum.
    """
    tokens, images = budget.tokens, budget.images
    chosen: list[int] = []
    rest: list[int] = []
    for number, sample in enumerate(samples):
        length, image_count = len(sample.token_ids), len(sample.levels)
        if number == 0 or (tokens - length >= _BEST_FIT_TOKENS and image_count <= images):
            chosen.append(number)
            tokens, images = tokens - length, images - image_count
        else:
            rest.append(number)
    sizes = [(len(samples[number].token_ids), len(samples[number].levels)) for number in rest]
    return sorted([*chosen, *(rest[index] for index in best_fit_subset(sizes, tokens, images))])


def best_fit_subset(sizes: list[tuple[int, int]], tokens: int, images: int) -> list[int]:
    """Which of ``sizes`` (tokens, images) have the largest sum of tokens within both bounds; early ones preferred.

    ``fewest[k][t]``: the fewest images with which some of the sizes from k on add up to t tokens.
    """
    tokens = min(tokens, sum(length for length, _ in sizes))  # where images fill the batch, most of its tokens are free
    fewest = np.full((len(sizes) + 1, tokens + 1), _IMPOSSIBLE, np.int32)
    fewest[-1, 0] = 0
    for index in range(len(sizes) - 1, -1, -1):
        length, image_count = sizes[index]
        fewest[index] = fewest[index + 1]
        if length <= tokens:
            with_it = fewest[index + 1, : tokens + 1 - length] + image_count
            np.minimum(fewest[index, length:], with_it, out=fewest[index, length:])
    total = int(np.flatnonzero(fewest[0] <= images)[-1])
    chosen = []
    for index, (length, image_count) in enumerate(sizes):
        if length <= total and image_count <= images and fewest[index + 1, total - length] + image_count <= images:
            chosen.append(index)
            total, images = total - length, images - image_count
    return chosen


def _too_large(sample: Sample, budget: BatchSpec) -> str | None:
    if len(sample.token_ids) > budget.tokens:
        return "more tokens than a batch holds"
    return "more images than a batch holds" if len(sample.levels) > budget.images else None


_CHUNK = 4  # documents in a message, where reading does not wait
_AHEAD = 4  # messages that wait for each process, at least
_AHEAD_BYTES = 256 << 20  # of samples of one image that wait in all processes
_GPU_CORES_KEPT, _CPU_CORES_A_LOADER = 1, 8
_EXIT_SECONDS = 5.0
Samples = list[Sample | SkippedSample]


def default_workers(ranks: int, gpu: bool) -> int:
    """Loader processes of one of ``ranks`` on this machine, from the cores that it may use.

    On a GPU machine all cores but one of each rank decode images. Where the CPU also computes, one in eight does.
    """
    share = usable_cores() // ranks
    return max(share - _GPU_CORES_KEPT if gpu else share // _CPU_CORES_A_LOADER, 1)


class LoaderPool:
    """Processes that make the samples of one stream; a context manager.

    On Linux they are forked, so start them before CUDA, process groups and their threads. They ignore SIGTERM, which
    a supervisor may send to a whole group: the trainer still needs them for the step at which it stops.

    Args:
        corpora: what the stream reads; open files are shared.
        workers: number of processes; 0: samples are made in this process.
    """

    def __init__(self, corpora: Mapping[str, Corpus], workers: int) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._reads = max((corpus.concurrent_reads for corpus in corpora.values()), default=1)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(workers):
            own, other = context.Pipe()
            self._connections.append(own)
            process = context.Process(target=_serve, args=(dict(corpora), other, self._reads), daemon=True)
            process.start()
            other.close()
            self._processes.append(process)

    def samples(
        self, stream: SampleStream, positions: Iterator[int], ahead: int = 0, stride: int = 1
    ) -> Iterator[Sample | SkippedSample]:
        """The samples at ``positions``, in this order. All calls are for one stream, which the processes keep.

        Args:
            ahead: samples that the processes make before they are taken.
            stride: number of ranks that share the stream.

        Raises: what making a sample raises; RuntimeError when a process ended.
        """
        if not self._processes:
            return (stream[position] for position in positions)
        readers = len(self._processes)
        options = stream.options | {"block_bytes": stream.options["block_bytes"] // readers}
        for number in range(readers):
            self._send(number, options)
        turns = itertools.cycle(range(readers))

        def process(chunk: Sequence[int]) -> int:
            return stream.reader(chunk[0], stride, readers) if stream.reads_blocks else next(turns)

        return itertools.chain.from_iterable(self._chunks(positions, ahead, process))

    def _chunks(
        self, positions: Iterator[int], ahead: int, process: Callable[[Sequence[int]], int]
    ) -> Iterator[Samples]:
        """``process``: number of the one that makes a chunk."""
        # where reading waits, as many requests are under way in each process as it reads at once
        size, least = (_CHUNK, _AHEAD) if self._reads == 1 else (1, self._reads + _AHEAD)
        waits = max(least * len(self._processes), 1 + math.ceil(ahead / size))
        chunks = iter(lambda: tuple(itertools.islice(positions, size)), ())
        waiting: deque[int] = deque()
        for chunk in chunks:
            number = process(chunk)
            self._send(number, chunk)
            waiting.append(number)
            if len(waiting) == waits:
                yield self._receive(waiting.popleft())
        while waiting:
            yield self._receive(waiting.popleft())

    def _send(self, number: int, message: Any) -> None:
        try:
            self._connections[number].send(message)
        except OSError as error:
            raise self._ended(number) from error

    def _receive(self, number: int) -> Samples:
        try:
            answer = self._connections[number].recv()
        except (EOFError, OSError) as error:
            raise self._ended(number) from error
        if isinstance(answer, BaseException):
            raise answer
        samples: Samples = answer
        return samples

    def _ended(self, number: int) -> RuntimeError:
        process = self._processes[number]
        process.join(_EXIT_SECONDS)
        return RuntimeError(f"loader process {process.pid} ended with status {process.exitcode}")

    def close(self) -> None:
        """End the processes; one that reads is not waited for long. A thread that waits for samples gets an error."""
        for connection in self._connections:
            # for both sides, whoever has copies of its descriptors
            with socket.socket(fileno=os.dup(connection.fileno())) as pair, suppress(OSError):
                pair.shutdown(socket.SHUT_RDWR)
        for process in self._processes:
            process.join(_EXIT_SECONDS)
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._connections, self._processes = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_batches(
    stream: SampleStream,
    start: int | Cursor,
    budget: BatchSpec,
    workers: int | LoaderPool,
    stride: int = 1,
) -> Iterator[DocumentBatch]:
    """Endless batches from ``start`` on; the same whatever ``workers`` is (0: in this process).

    Args:
        start: a position, or the cursor of the last batch, which has those that wait too.
        workers: a number of loader processes, which end with the iterator, or a pool.
        stride: number of ranks that share the stream.
    """
    cursor = Cursor(start) if isinstance(start, int) else start
    positions = itertools.chain(cursor.held, itertools.count(cursor.position, stride))
    # those of a whole batch, or the trainer would wait for the rest of each while the loaders idle during the step
    ahead = max(1, min(budget.images, _AHEAD_BYTES // (3 * stream.options["image_size"] ** 2)))
    if isinstance(workers, int):
        samples: Iterable[Sample | SkippedSample] = _samples_of_own_pool(stream, positions, workers, ahead, stride)
    else:
        samples = workers.samples(stream, positions, ahead, stride)
    return pack_documents(samples, cursor, budget, stride=stride)


def _samples_of_own_pool(
    stream: SampleStream, positions: Iterator[int], workers: int, ahead: int, stride: int
) -> Iterator[Sample | SkippedSample]:
    with LoaderPool(stream.corpora, workers) as pool:
        yield from pool.samples(stream, positions, ahead, stride)


def _serve(corpora: dict[str, Corpus], requests: Connection, reads: int) -> None:
    """Body of a loader process: the first message has the options of the stream, the others positions."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    exit_with_parent()
    with suppress(EOFError, ConnectionError):
        try:
            stream = SampleStream(corpora=corpora, **requests.recv())
            # Answers in the order of the requests. What the pipe cannot hold yet waits here, as many messages as the
            # trainer has requested.
            made: queue.SimpleQueue[Future[Samples]] = queue.SimpleQueue()
            threads = ThreadPoolExecutor(reads)
            threading.Thread(target=_send_in_order, args=(made, requests), daemon=True).start()
            try:
                while True:
                    made.put(threads.submit(_read_samples, stream, requests.recv()))
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                stream.close()
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            requests.send(error)


def _send_in_order(made: queue.SimpleQueue[Future[Samples]], requests: Connection) -> None:
    with suppress(CancelledError, ConnectionError):
        while True:
            try:
                samples = made.get().result()
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))
                requests.send(error)
                return
            requests.send(samples)


def _read_samples(stream: SampleStream, positions: Sequence[int]) -> Samples:
    return [stream[position] for position in positions]
