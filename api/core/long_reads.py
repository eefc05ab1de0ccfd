"""Requests that take long, such as reads of whole corpora and encoders, in threads: few at a time, owners in turn.

A queue belongs to one event loop and needs no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from api.core.errors import Problem

MAX_LONG_READS = 8  # over all owners; threads wait for slow disks
MAX_LONG_READS_PER_OWNER = 2
MAX_WAITING_READS_PER_OWNER = 32
MAX_WAITING_COMPARISONS_PER_OWNER = 8  # each computes for seconds to minutes, one at a time

Result = TypeVar("Result")


@dataclass
class _OwnerReads:
    limiter: CapacityLimiter
    pending: int = 0  # waiting and running


class LongReadQueue:
    """Requests of an owner run in order of arrival, and no owner waits for all that another one has sent.

    Args:
        at_once: of all owners.
        per_owner: of one owner at once.
        waiting: of one owner; a further one is refused.
        what: they do, for the message.
    """

    def __init__(
        self,
        at_once: int = MAX_LONG_READS,
        per_owner: int = MAX_LONG_READS_PER_OWNER,
        waiting: int = MAX_WAITING_READS_PER_OWNER,
        what: str = "read files",
    ) -> None:
        self._threads = CapacityLimiter(at_once)
        self._per_owner, self._waiting, self._what = per_owner, waiting, what
        self._owners: dict[str, _OwnerReads] = {}

    async def run(self, owner: str, read: Callable[..., Result], *arguments: object) -> Result:
        """``read(*arguments)`` in a thread. The caller must not hold a transaction meanwhile.

        Raises: Problem 429 ``too_many_requests`` when too many of this owner's wait; errors of ``read``.
        """
        own = self._owners.setdefault(owner, _OwnerReads(CapacityLimiter(self._per_owner)))
        if own.pending >= self._per_owner + self._waiting:
            message = (
                f"{own.pending} requests of {owner}'s that {self._what} are under way; try again when some are done"
            )
            raise Problem(429, "too_many_requests", message, headers={"retry-after": "5"})
        own.pending += 1
        try:
            async with own.limiter:
                return await to_thread.run_sync(partial(read, *arguments), limiter=self._threads)
        finally:
            own.pending -= 1
            if not own.pending:
                del self._owners[owner]


def comparison_queue() -> LongReadQueue:
    """A queue of requests that compare all images of a collection: one computes at a time, of the owners in turn."""
    return LongReadQueue(1, 1, MAX_WAITING_COMPARISONS_PER_OWNER, "compare the images of a collection")
