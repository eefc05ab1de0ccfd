"""Waiting, file access and parallel calls, as coroutines and as blocking functions (``async_x`` and ``x``)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import IO, Any, TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


async def async_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


async def async_read_bytes(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


def read_bytes(path: Path) -> bytes:
    return path.read_bytes()


async def async_call(function: Callable[..., Output], *arguments: Any) -> Output:
    """A blocking function, in a thread."""
    return await asyncio.to_thread(function, *arguments)


def call(function: Callable[..., Output], *arguments: Any) -> Output:
    return function(*arguments)


async def async_write(file: IO[bytes], chunk: bytes) -> None:
    await asyncio.to_thread(file.write, chunk)


def write(file: IO[bytes], chunk: bytes) -> None:
    file.write(chunk)


async def async_parallel_map(
    call: Callable[[Input], Coroutine[Any, Any, Output]], items: Iterable[Input], limit: int
) -> AsyncGenerator[Output]:
    """``call`` of each item, at most ``limit`` at a time, in their order. The first error cancels the rest."""
    pending: deque[asyncio.Task[Output]] = deque()
    try:
        for item in items:
            pending.append(asyncio.create_task(call(item)))
            if len(pending) >= limit:
                yield await pending[0]
                pending.popleft()
        while pending:
            yield await pending[0]
            pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def parallel_map(call: Callable[[Input], Output], items: Iterable[Input], limit: int) -> Generator[Output]:
    """``async_parallel_map`` with threads, each in the context of the caller: an ``httpx.Auth`` may read it.

    A thread cannot be cancelled. After an error, Ctrl-C included, nobody waits for those that still run.
    """
    pending: deque[Future[Output]] = deque()
    for item in items:
        pending.append(_in_thread(copy_context().run, call, item))
        if len(pending) >= limit:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _in_thread(function: Callable[..., Output], *arguments: Any) -> Future[Output]:
    """The result of a thread of its own, which the end of the interpreter does not wait for, unlike a pool's."""
    future: Future[Output] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # as a pool does
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
