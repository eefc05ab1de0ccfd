"""Reads the stream ahead of the step, in separate processes.

Loader processes make samples, the trainer packs them in the order of the stream. A sample is a function of its position
alone, so batches do not depend on how many processes and threads there are, and the number may change between attempts.
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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch

from lcl_core.common.processes import exit_with_parent, usable_cores
from lcl_core.data.corpus.base import Corpus
from lcl_core.data.sampling.packing import Cursor, DocumentBatch, pack_documents
from lcl_core.data.sampling.shuffle import ReaderShare
from lcl_core.data.sampling.sources import Sample, SkippedSample
from lcl_core.data.sampling.stream import SampleStream
from lcl_core.specs.pretrain import BatchSpec

_CHUNK = 4  # documents in a message, where reading does not wait
_AHEAD = 4  # messages that wait for each process, at least
_AHEAD_BYTES = 256 << 20  # of images that wait in all processes
_MAX_WORKERS = 8
_GPU_CORES_KEPT, _CPU_CORES_A_LOADER = 1, 8
_EXIT_SECONDS = 5.0
Samples = list[Sample | SkippedSample]


def default_workers(ranks: int, gpu: bool) -> int:
    """Loader processes of one of ``ranks`` on this machine, from the cores that it may use.

    On a GPU machine all cores but one of each rank decode images. Where the CPU also computes, one in eight does.
    """
    share = usable_cores() // ranks
    return min(max(share - _GPU_CORES_KEPT if gpu else share // _CPU_CORES_A_LOADER, 1), _MAX_WORKERS)


def read_ahead(budget: BatchSpec, image_size: int, images_per_sample: int = 1) -> int:
    """Samples to make while a step computes: those of a whole batch, as far as their images fit into memory.

    With fewer, the trainer waits for the rest of each batch while the loaders idle during the step.

    Args:
        image_size: side of an image, pixels.
        images_per_sample: most images that a sample has. It only lowers the bound of the memory: how many samples
            fill a batch is not known, and it may be one per image.
    """
    return max(1, min(budget.images, _AHEAD_BYTES // (3 * image_size**2 * images_per_sample)))


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
        self, stream: SampleStream, positions: Iterator[int], ahead: int = 0, share: ReaderShare | None = None
    ) -> Iterator[Sample | SkippedSample]:
        """The samples at ``positions``, in this order. All calls are for one stream, which the processes keep.

        Args:
            ahead: samples that the processes make before they are taken.
            share: all but a few of the positions are those of this rank, so their blocks can be fetched ahead.

        Raises: what making a sample raises; RuntimeError when a process ended.
        """
        share = share if stream.reads_blocks else None
        if not self._processes:
            return _samples_here(stream, positions, share)
        readers = len(self._processes)
        options = stream.options | {"cache_bytes": stream.options["cache_bytes"] // readers}
        for number in range(readers):
            self._send(number, (options, share and replace(share, number=number, readers=readers)))
        turns = itertools.cycle(range(readers))
        if share is None:
            return itertools.chain.from_iterable(self._chunks(positions, ahead, lambda _: next(turns)))
        stride = share.stride
        return itertools.chain.from_iterable(
            self._chunks(positions, ahead, lambda chunk: stream.reader(chunk[0], stride, readers))
        )

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
            _shut_down(connection)
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
    lookahead: int = 0,
    stride: int = 1,
) -> Iterator[DocumentBatch]:
    """Endless batches from ``start`` on; the same whatever ``workers`` is (0: in this process).

    Args:
        start: a position, or the cursor of the last batch. With a look-ahead the position alone would lose the
            documents that wait.
        workers: a number of loader processes, which end with the iterator, or a pool.
        lookahead: documents that may wait for a batch that they fill; 0: none, in order.
        stride: number of ranks that share the stream.
    """
    cursor = Cursor(start) if isinstance(start, int) else start
    positions = itertools.chain(cursor.held, itertools.count(cursor.position, stride))
    ahead = read_ahead(budget, stream.options["image_size"], stream.images_per_sample)
    share = ReaderShare(cursor.position, stride)
    if isinstance(workers, int):
        samples: Iterable[Sample | SkippedSample] = _samples_of_own_pool(stream, positions, workers, ahead, share)
    else:
        samples = workers.samples(stream, positions, ahead, share)
    return pack_documents(samples, cursor, budget, lookahead=lookahead, stride=stride)


def _samples_of_own_pool(
    stream: SampleStream, positions: Iterator[int], workers: int, ahead: int, share: ReaderShare
) -> Iterator[Sample | SkippedSample]:
    with LoaderPool(stream.corpora, workers) as pool:
        yield from pool.samples(stream, positions, ahead, share)


def _samples_here(
    stream: SampleStream, positions: Iterator[int], share: ReaderShare | None
) -> Iterator[Sample | SkippedSample]:
    with nullcontext() if share is None else stream.reading_ahead(share):
        for position in positions:
            yield stream[position]


def _shut_down(connection: Connection) -> None:
    """End the connection for both sides, whoever has copies of its descriptors."""
    with socket.socket(fileno=os.dup(connection.fileno())) as pair, suppress(OSError):
        pair.shutdown(socket.SHUT_RDWR)


def _serve(corpora: dict[str, Corpus], requests: Connection, reads: int) -> None:
    """Body of a loader process: the first message has the options of the stream and its share, the others positions."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    exit_with_parent()
    with suppress(EOFError, ConnectionError):
        try:
            options, share = requests.recv()
            stream = SampleStream(corpora=corpora, **options)
            with nullcontext() if share is None else stream.reading_ahead(share):
                _answer(stream, requests, reads)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))
            requests.send(error)


def _answer(stream: SampleStream, requests: Connection, reads: int) -> None:
    """Samples for positions, in the order of the requests; up to ``reads`` requests are worked on at once.

    What the pipe cannot hold yet waits here, as many messages as the trainer has requested.
    """
    made: queue.SimpleQueue[Future[Samples]] = queue.SimpleQueue()
    threads = ThreadPoolExecutor(reads)
    threading.Thread(target=_send_in_order, args=(made, requests), daemon=True).start()
    try:
        while True:
            made.put(threads.submit(_read_samples, stream, requests.recv()))
    finally:
        # those under way end first: once nothing is fetched ahead any more, each would make a request of its own
        threads.shutdown(cancel_futures=True)


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
