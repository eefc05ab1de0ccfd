"""What would hold up an event loop: tasks, and threads where the system knows no other way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import IO, Any, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def read_bytes(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


async def write(file: IO[bytes], chunk: bytes) -> None:
    await asyncio.to_thread(file.write, chunk)


async def in_parallel(
    call: Callable[[Given], Coroutine[Any, Any, Made]], items: Iterable[Given], at_once: int
) -> AsyncGenerator[Made]:
    """``call`` of each item, ``at_once`` at a time, in the items' order. The first error ends it."""
    waiting: deque[asyncio.Task[Made]] = deque()
    try:
        for item in items:
            waiting.append(asyncio.create_task(call(item)))
            if len(waiting) >= at_once:
                yield await waiting[0]
                waiting.popleft()
        while waiting:
            yield await waiting[0]
            waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
