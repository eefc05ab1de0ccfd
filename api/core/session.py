"""Transaction of a request, and decorators that choose the threads in which an endpoint runs."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import Engine
from sqlalchemy.orm import Session

# Brief requests that run at one time. More would only take the interpreter from one another, and each step costs
# more the more there are.
MAX_SHORT_REQUESTS = 3

P = ParamSpec("P")
Result = TypeVar("Result")


class RequestSession(Session):
    """Asks nothing of the database before its first statement; ends once, by ``settle`` or ``abandon``.

    Args:
        engine: of readers or of writers.
        lane: what a brief endpoint waits for instead of one of the framework's threads.
        last_words: what a transaction that writes adds right before it is committed; None: it only reads.
    """

    def __init__(self, engine: Engine, lane: CapacityLimiter, last_words: Callable[[Session], None] | None) -> None:
        super().__init__(engine, expire_on_commit=False)
        self.limiter = lane
        self._last_words = last_words
        self._over = False

    @property
    def needs_finish(self) -> bool:
        """Whether ``settle`` or ``abandon`` would ask something of the database."""
        return not self._over and (self._last_words is not None or self.in_transaction())

    def commit_and_close(self) -> None:
        """Keep what was written, with the last words or not at all; give the connection back."""
        try:
            if self._last_words is not None and not self._over:
                self._last_words(self)
                self.commit()
        finally:
            self.rollback_and_close()

    def rollback_and_close(self) -> None:
        """Undo what is not kept; give the connection back."""
        self._over = True
        self.close()


def single_thread_endpoint(endpoint: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
    """An endpoint with a ``session`` that only asks the database: all of it, to the commit, at one go in one thread.

    For what is asked often. Others run in the framework's threads, where they may take their time.
    """

    @functools.wraps(endpoint)
    async def in_one_go(*args: P.args, **kwargs: P.kwargs) -> Result:
        session: Any = kwargs["session"]
        step = functools.partial(endpoint, *args, **kwargs)
        return await to_thread.run_sync(_run_and_commit, session, step, limiter=session.limiter)

    return in_one_go


def in_thread_pool(name: str) -> Callable[[Callable[P, Result]], Callable[P, Awaitable[Result]]]:
    """An endpoint with a ``context`` that works in one of that context's threads of a kind, such as ``drawing``.

    For what may take long: were it to take the framework's threads, no other request would get one. Its answer is best
    a finished ``Response``, since the event loop makes one of anything else.
    """

    def decorate(endpoint: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
        @functools.wraps(endpoint)
        async def in_its_lane(*args: P.args, **kwargs: P.kwargs) -> Result:
            lane: CapacityLimiter = getattr(kwargs["context"], name)
            return await to_thread.run_sync(functools.partial(endpoint, *args, **kwargs), limiter=lane)

        return in_its_lane

    return decorate


def _run_and_commit(session: RequestSession, endpoint: Callable[[], Result]) -> Result:
    try:
        answer = endpoint()
        session.commit_and_close()
        return answer
    except BaseException:
        session.rollback_and_close()
        raise


async def finish(session: RequestSession, step: Callable[[], None]) -> None:
    """Do the last ``step`` of a session where waiting holds up nobody, if there is anything left to do.

    It needs no place among the framework's threads: all may be taken by others that wait for just this end.
    """
    if session.needs_finish:
        await to_thread.run_sync(step, limiter=CapacityLimiter(1))
    else:
        session.rollback_and_close()
