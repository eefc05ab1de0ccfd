"""Waiting for several futures at once, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any


def failed(error: Exception) -> Future[Any]:
    """A future that has failed already."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def wait_for(futures: Sequence[Future[Any]]) -> list[Any]:
    """All results in order; the first failure cancels what still waits and is raised."""
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


async def gather(futures: Sequence[Future[Any]]) -> list[Any]:
    """As ``wait_for``, without blocking the event loop; cancelling the caller cancels what still waits."""
    try:
        return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
    finally:
        for future in futures:
            future.cancel()
