"""Transaction of a request, decorators that choose an endpoint's threads, and responses made in threads."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter, move_on_after, to_thread
from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

# Short endpoints that run at one time. More would only compete for the interpreter, and each step costs more the more
# threads there are.
MAX_SHORT_REQUESTS = 3

P = ParamSpec("P")
Result = TypeVar("Result")
WriteTransaction = Callable[[], AbstractAsyncContextManager[Session]]


class RequestSession(Session):
    """Sends nothing to the database before its first statement. Finished once, by commit or rollback.

    Args:
        engine: of readers or of writers.
        limiter: threads in which a short endpoint runs.
        before_commit: writes the last rows of a write transaction; None: a read transaction.
    """

    def __init__(
        self, engine: Engine, limiter: CapacityLimiter, before_commit: Callable[[Session], None] | None
    ) -> None:
        super().__init__(engine, expire_on_commit=False)
        self.limiter = limiter
        self._before_commit = before_commit
        self._finished = False

    @property
    def needs_finish(self) -> bool:
        """Whether commit or rollback would send anything to the database."""
        return not self._finished and (self._before_commit is not None or self.in_transaction())

    def commit_and_close(self) -> None:
        """Commit, with the rows of ``before_commit`` or not at all, and return the connection."""
        try:
            if self._before_commit is not None and not self._finished:
                self._before_commit(self)
                self.commit()
        finally:
            self.rollback_and_close()

    def rollback_and_close(self) -> None:
        self._finished = True
        self.close()


def single_thread_endpoint(endpoint: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
    """Run an endpoint with a ``session``, commit included, in one step in one of few threads.

    For endpoints that only query the database and are called often. Others run in the framework's threads.
    """

    @functools.wraps(endpoint)
    async def in_one_thread(*args: P.args, **kwargs: P.kwargs) -> Result:
        session: Any = kwargs["session"]
        step = functools.partial(endpoint, *args, **kwargs)
        return await to_thread.run_sync(_run_and_commit, session, step, limiter=session.limiter)

    return in_one_thread


def in_thread_pool(name: str) -> Callable[[Callable[P, Result]], Callable[P, Awaitable[Result]]]:
    """Run an endpoint with a ``state`` in the threads of that state's limiter ``name``, such as ``drawing``.

    For slow endpoints, which would use up the framework's threads. Such an endpoint should return a finished
    ``Response``: the event loop serialises anything else.
    """

    def decorate(endpoint: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
        @functools.wraps(endpoint)
        async def in_pool(*args: P.args, **kwargs: P.kwargs) -> Result:
            limiter: CapacityLimiter = getattr(kwargs["state"], name)
            return await to_thread.run_sync(functools.partial(endpoint, *args, **kwargs), limiter=limiter)

        return in_pool

    return decorate


def _run_and_commit(session: RequestSession, endpoint: Callable[[], Result]) -> Result:
    try:
        result = endpoint()
        session.commit_and_close()
        return result
    except BaseException:
        session.rollback_and_close()
        raise


async def finish(session: RequestSession, step: Callable[[], None]) -> None:
    """Run the last ``step`` of a session, in a thread of its own if it sends anything to the database.

    The framework's threads may all be taken by requests that wait for this very step.
    """
    if session.needs_finish:
        await to_thread.run_sync(step, limiter=CapacityLimiter(1))
    else:
        session.rollback_and_close()


ResponseDocs = dict[int | str, dict[str, Any]]


def documented_responses(
    *media_types: str, status: int = 200, description: str = "Successful Response"
) -> ResponseDocs:
    """A route's ``responses`` for a body of one of these media types. Several are joined with ``|``."""
    return {status: {"description": description, "content": {name: {} for name in media_types}}}


def json_response(model: BaseModel) -> Response:
    """A serialised response, so that the event loop has nothing left to serialise."""
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")


async def stream_in_threads(threads: CapacityLimiter, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each made in one of these threads."""
    while (chunk := await to_thread.run_sync(next, chunks, None, limiter=threads)) is not None:
        yield chunk


class CleanupResponse(StreamingResponse):
    """Closes ``resources`` after the last byte, when the client has disconnected, or when it has not read everything
    within ``seconds``; then the connection is closed as well.

    A generator's ``finally`` is not enough: after a disconnect the framework leaves it to the garbage collector.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        resources: ExitStack,
        seconds: float,
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._resources, self._seconds = resources, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with move_on_after(self._seconds):
                await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._resources.close, limiter=CapacityLimiter(1))
