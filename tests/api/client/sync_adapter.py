"""The asynchronous client with the calls of the synchronous one, so that the same tests run it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any, Self

from api.client import AsyncClient


class SyncAdapter:
    """``AsyncClient``, each call of which is awaited at once in a loop of its own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self._client = AsyncClient(*arguments, **settings)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            answer = found(*arguments, **named)
            if inspect.isasyncgen(answer):
                return self._drawn(answer)
            return self._runner.run(answer) if inspect.iscoroutine(answer) else answer

        return call

    def _drawn(self, answer: Any) -> Iterator[Any]:
        async def draw() -> Any:
            return await anext(answer)

        while True:
            try:
                yield self._runner.run(draw())
            except StopAsyncIteration:
                return
