"""A service that answers from memory and remembers what it was asked."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


class Service:
    """Stands in for ``api.client.Client``: each call is looked up in ``answers`` and noted in ``calls``."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(*args, **kwargs) if callable(answer) else answer

        return call

    def asked(self, name: str) -> list[dict[str, Any]]:
        """Keyword arguments of each call of ``name``."""
        return [kwargs for called, _, kwargs in self.calls if called == name]


@pytest.fixture(scope="session")
def service() -> type[Service]:
    return Service


@pytest.fixture
def away() -> Exception:
    """What every call raises when no service answers."""
    from api.client import ApiError

    return ApiError(0, "unreachable", "no answer from http://127.0.0.1:9 (refused); is the service up?")


@pytest.fixture
def run() -> dict[str, Any]:
    """A pre-training run half-way."""
    return {
        "id": "run_1",
        "kind": "pretrain",
        "name": "first",
        "tags": [],
        "state": "running",
        "spec": {},
        "reason": None,
        "progress": {"step": 50, "total_steps": 200, "seconds_left": 75.2, "images_per_s": 151.7, "images_seen": 3200},
        "result": None,
        "attempt": 1,
        "owner": "someone",
        "created_at": "2026-01-01T10:00:00Z",
        "started_at": "2026-01-01T10:00:05Z",
        "finished_at": None,
    }
