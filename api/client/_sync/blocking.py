"""What would hold up an event loop. Here it is threads and plain calls; its twin is ``api.client._async.blocking``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def read_bytes(path: Path) -> bytes:
    return path.read_bytes()


def write(file: IO[bytes], chunk: bytes) -> None:
    file.write(chunk)


def in_parallel(call: Callable[[Given], Made], items: Iterable[Given], at_once: int) -> Iterator[Made]:
    """``call`` of each item, ``at_once`` at a time, in the items' order. The first error ends it."""
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(at_once)
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
