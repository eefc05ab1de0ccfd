"""Requests that read a whole corpus or encoder: few at a time of each owner, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from api.errors import Problem

AT_ONCE = 8  # over all owners; the files may lie on a slow disk, and a thread waits for them
OF_ONE_OWNER = 2
WAITING = 32  # of one owner

Answer = TypeVar("Answer")


@dataclass
class _Owner:
    limiter: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(OF_ONE_OWNER))
    asked: int = 0  # those that wait and those that read


class LongReads:
    """Runs them in the order in which they came. Used by the event loop alone."""

    def __init__(self) -> None:
        self._threads = CapacityLimiter(AT_ONCE)
        self._owners: dict[str, _Owner] = {}

    async def run(self, owner: str, read: Callable[..., Answer], *arguments: object) -> Answer:
        """``read(*arguments)`` in a thread. No transaction may be open while it waits and reads.

        Raises: Problem 429 ``too_many_requests`` when as many of this owner's wait as may; what ``read`` raises.
        """
        own = self._owners.setdefault(owner, _Owner())
        if own.asked >= OF_ONE_OWNER + WAITING:
            message = f"{own.asked} requests of {owner}'s that read files are under way; try again when some are done"
            raise Problem(429, "too_many_requests", message, headers={"retry-after": "5"})
        own.asked += 1
        try:
            async with own.limiter:
                return await to_thread.run_sync(partial(read, *arguments), limiter=self._threads)
        finally:
            own.asked -= 1
            if not own.asked:
                del self._owners[owner]
