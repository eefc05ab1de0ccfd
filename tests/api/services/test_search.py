"""Searches while the captions of a collection are being indexed, with stubs in place of encoder and database."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from anyio import CapacityLimiter

from api.core.settings import ApiSettings
from api.schemas.collections import SearchRequest
from api.services import search as search_service
from api.services.search import OpenedCollection
from api.services.state import AppState
from lcl_core.collections.collection import Collection
from lcl_core.collections.full_text import FullTextIndex
from lcl_core.collections.writer import CollectionItem, build_collection
from lcl_core.common.errors import UserError

VECTOR = np.ones(4, np.float32)


class Scene:
    """Two collections and two threads; ``gate``: indexes are made while it is open."""

    def __init__(self, place: Path, settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.made: list[FullTextIndex] = []
        self.gate = threading.Event()
        self.failure: Exception | None = None
        self.collections = {}
        for name in ("slow", "other"):
            items = [CollectionItem(f"{name} {row}", b"", "image/png", (f"a dog {row}",)) for row in range(3)]
            build_collection(place / name, items, np.ones((3, 4)), None, name=name, encoder_hash="e" * 64)
            self.collections[name] = Collection.open(place / name)
        state = SimpleNamespace(
            settings=settings, searching=CapacityLimiter(2), database=SimpleNamespace(reading=nullcontext)
        )
        self.state = cast(AppState, state)
        original = FullTextIndex.__init__

        def make(index: FullTextIndex, texts: Any) -> None:
            assert self.gate.wait(60)
            if self.failure is not None:
                raise self.failure
            original(index, texts)
            self.made.append(index)

        monkeypatch.setattr(FullTextIndex, "__init__", make)
        monkeypatch.setattr(search_service, "open_for_search", self._open)

    def _open(self, state: AppState, session: Any, name: str, embeds: Any) -> OpenedCollection:
        self.opened.append(name)
        return OpenedCollection(name, f"collections/{name}", self.collections[name], None)

    async def find(self, name: str, hybrid: bool = True) -> int:
        """Number of hits."""
        body = SearchRequest(text="dog" if hybrid else None, vector=VECTOR.tolist(), hybrid=hybrid)
        return len((await search_service.search(self.state, name, body, "ada")).hits)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    settings = ApiSettings(home=tmp_path, _env_file=None)  # type: ignore[call-arg]
    return Scene(tmp_path, settings, monkeypatch)


def test_no_thread_waits_for_captions_that_are_being_indexed(scene: Scene) -> None:
    async def run() -> None:
        waiting = [asyncio.create_task(scene.find("slow")) for _ in range(5)]
        try:
            while len(scene.opened) < 5:
                await asyncio.sleep(0)
            assert await scene.find("other", hybrid=False) == await scene.find("slow", hybrid=False) == 3
            assert not any(task.done() for task in waiting)
        finally:
            scene.gate.set()
        assert await asyncio.gather(*waiting) == [3] * 5
        assert len(scene.made) == 1, "one for all"
        assert await scene.find("slow") == 3
        assert len(scene.made) == 1

    asyncio.run(asyncio.wait_for(run(), 120))


def test_an_index_that_cannot_be_made_is_reported_and_tried_again(scene: Scene) -> None:
    scene.failure = UserError("no full-text search", code="full_text_unavailable", field="hybrid")

    async def run() -> None:
        waiting = [asyncio.create_task(scene.find("slow")) for _ in range(3)]
        while len(scene.opened) < 3:
            await asyncio.sleep(0)
        scene.gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {error.code for error in found if isinstance(error, UserError)} == {"full_text_unavailable"}
        scene.failure = None
        assert await scene.find("slow") == 3

    asyncio.run(asyncio.wait_for(run(), 120))
