"""A service that answers from memory and remembers what it was asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.ui.hostile_events import AccessMonitor, HostilePage

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

    def arguments_of(self, name: str) -> list[dict[str, Any]]:
        """Keyword arguments of each call of ``name``."""
        return [kwargs for called, _, kwargs in self.calls if called == name]


def runs_tab(client: Any) -> Any:
    """The tab Runs, built, of a service that has no studies unless it says so."""
    import gradio as gr

    from ui.tabs.runs import RunsTab

    client.answers.setdefault("studies", {"items": []})
    tab = RunsTab(client)
    with gr.Blocks():
        tab.build()
    return tab


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


@pytest.fixture
def estimate() -> dict[str, Any]:
    """What the service says of the sample preset after a run of it."""
    return {
        "certainty": "measured",
        "device": "cpu",
        "seconds": {"expected": 210.0, "low": 190.0, "high": 240.0},
        "memory_bytes": {"expected": 1.5 * 2**30, "low": 1.4 * 2**30, "high": 1.6 * 2**30},
        "memory_parts": {
            "weights": 25_645_060,
            "gradients": 25_645_060,
            "moments": 51_290_120,
            "copies": 76_935_180,
            "activations": 240_730_112,
            "process": 590_558_003,
        },
        "parameters": 6_411_265,
        "flops_per_step": 7.68e10,
        "flops": 3.84e13,
        "per_step": {"documents": 115.6, "images": 128.0, "tokens": 3184.0},
        "samples": {"documents": 57_812.5, "images": 64_000.0, "tokens": 1_592_000.0},
        "checkpoint_bytes": 76_935_180,
        "disk_bytes": 179_515_420,
        "basis": ["Time: 183 GFLOP/s of useful operations a process, as measured by run_1.", "Documents: <some>."],
        "runs": ["run_1"],
    }


@pytest.fixture(scope="module")
def watch() -> AccessMonitor:
    from tests.ui.hostile_events import AccessMonitor

    return AccessMonitor()  # for good: the interpreter forgets no hook


@pytest.fixture(scope="module", params=["team", "one machine"])
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostilePage]:
    """A page of each kind, to be walked."""
    from tests.ui.hostile_events import HostilePage

    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        yield HostilePage(folder, team=request.param == "team")
