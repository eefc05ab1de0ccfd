"""Encoders that are in memory before the first search, and what a slow one leaves untouched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from api.app import create_app
from api.core.settings import ApiSettings
from api.services import warmup
from api.services.state import MAX_INFERRING, AppState
from api.services.warmup import EncoderWarmup
from lcl_core.collections.full_text import FullTextIndex
from lcl_core.encoders.engine import estimate_memory
from lcl_core.encoders.file_hashes import Hashes
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.model_pool import ModelPool
from tests.api.sample_assets import images_by_colour, make_collection, save_encoder
from tests.api.service_fixture import ServiceFixture


class Loads:
    """Directories that the pool loads, in order, behind a gate; ``examined``: those that it admitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directories: list[Path] = []
        self.examined: list[Path] = []
        self.gate = threading.Event()
        self.gate.set()
        original = ModelPool.__init__

        def init(pool: ModelPool, *args: Any, **options: Any) -> None:
            original(pool, *args, **options)
            load, admit = pool._load, pool._admit

            def counted(directory: Path, registered: Hashes | None) -> Any:
                self.directories.append(directory)
                assert self.gate.wait(180)
                return load(directory, registered)

            def admitted(directory: Path, registered: Hashes | None) -> None:
                admit(directory, registered)
                self.examined.append(directory)

            pool._load, pool._admit = counted, admitted

        monkeypatch.setattr(ModelPool, "__init__", init)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


@pytest.fixture(scope="module")
def encoders(live_service: ServiceFixture, data_root: Path) -> list[str]:
    """Ids of two encoders, each with a collection of its own name, the older first."""
    ids = []
    for seed, name in enumerate(("older", "newer")):
        folder = save_encoder(data_root / name, seed)
        encoder = live_service.admin.import_encoder(name, str(folder))
        make_collection(live_service, encoder, folder, images_by_colour(), name)
        ids.append(encoder["id"])
    return ids


@contextmanager
def restarted(live_service: ServiceFixture, **settings: Any) -> Iterator[TestClient]:
    """The service as started anew on the same home, with warm encoders unless told otherwise."""
    values: dict[str, Any] = {"home": live_service.home, "warm_encoders": True, **settings}
    app = create_app(ApiSettings(**values, _env_file=None))
    with TestClient(app, headers={"authorization": f"Bearer {live_service.keys['admin']}"}) as client:
        yield client


def in_memory(client: TestClient) -> list[str]:
    """Ids of loaded encoders."""
    inference = client.app.state.context._inference  # type: ignore[attr-defined]
    return [] if inference is None else [path.name for path in inference._pool.loaded]


def test_encoders_are_examined_and_loaded_before_anybody_searches_the_newest_first(
    live_service: ServiceFixture, encoders: list[str], loads: Loads, eventually: Callable[..., None]
) -> None:
    with restarted(live_service) as client:
        eventually(lambda: len(in_memory(client)) == 2, "both encoders")
        assert [path.name for path in loads.directories] == encoders[::-1]
        assert [path.name for path in loads.examined] == encoders[::-1]
        for name in ("older", "newer"):
            found = client.post(f"/v1/collections/{name}/search", json={"text": "a red square", "k": 1})
            assert found.status_code == 200, found.text
        assert len(loads.directories) == 2, "a search loads nothing any more"


def test_each_encoder_has_embedded_a_text_before_anybody_searches(
    live_service: ServiceFixture,
    encoders: list[str],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
) -> None:
    """The first forward pass takes longer: it loads the tokenizer and makes oneDNN's kernels."""
    embedded: list[BatchedEngine] = []
    original = BatchedEngine.embed_texts

    def record(engine: BatchedEngine, *given: Any, **named: Any) -> Any:
        vectors = original(engine, *given, **named)
        embedded.append(engine)
        return vectors

    monkeypatch.setattr(BatchedEngine, "embed_texts", record)
    with restarted(live_service):
        eventually(lambda: len(set(embedded)) == 2, "a text of each encoder")


def test_captions_are_indexed_before_anybody_searches_them(
    live_service: ServiceFixture,
    encoders: list[str],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
) -> None:
    made: list[FullTextIndex] = []
    original = FullTextIndex.__init__

    def record(index: FullTextIndex, *given: Any) -> None:
        original(index, *given)
        made.append(index)

    monkeypatch.setattr(FullTextIndex, "__init__", record)
    with restarted(live_service) as client:
        eventually(lambda: len(made) == 2, "an index of each collection")
        for name in ("older", "newer"):
            found = client.post(f"/v1/collections/{name}/search", json={"text": "red", "k": 1, "hybrid": True})
            assert found.status_code == 200, found.text
        assert len(made) == 2, "a search makes none any more"


def test_none_leaves_the_memory_for_one_that_nobody_has_asked_for(
    live_service: ServiceFixture, encoders: list[str], loads: Loads, data_root: Path, eventually: Callable[..., None]
) -> None:
    room = estimate_memory(data_root / "newer", "cpu", "fp32")
    with restarted(live_service, encoder_memory_bytes=room) as client, capture_logs() as logs:
        eventually(lambda: any(line["event"] == "encoder_not_warmed" for line in logs), "the older to be left out")
        assert in_memory(client) == [encoders[1]]
        assert client.post("/v1/collections/older/search", json={"text": "x", "k": 1}).status_code == 200
        assert in_memory(client) == [encoders[0]], "a request still gets its encoder"


def test_a_slow_load_delays_no_other_request_and_is_reported(
    live_service: ServiceFixture, encoders: list[str], loads: Loads, eventually: Callable[..., None]
) -> None:
    loads.gate.clear()
    with restarted(live_service) as client:
        eventually(lambda: len(loads.directories) == 1, "the load")
        during = client.get("/readyz").json()
        assert client.get("/v1/collections").status_code == 200
        loads.gate.set()
        eventually(lambda: client.get("/readyz").json()["loading"] == 0, "the end of the loads")
        assert during["loading"] == 1
        assert during["checks"].keys() == client.get("/readyz").json()["checks"].keys()
        assert all("encoder" not in name for name in during["checks"])


def test_an_encoder_that_is_being_loaded_stops_no_request_for_another(
    live_service: ServiceFixture, encoders: list[str], loads: Loads, eventually: Callable[..., None]
) -> None:
    """Neither embeddings nor searches, however many requests wait for it."""
    with restarted(live_service, warm_encoders=False) as client, ThreadPoolExecutor(2 * MAX_INFERRING) as clients:

        def embed(encoder: str) -> int:
            return client.post("/v1/embeddings", json={"model": encoder, "input": "a red square"}).status_code

        def search(collection: str) -> int:
            return client.post(f"/v1/collections/{collection}/search", json={"text": "red", "k": 1}).status_code

        older, newer = encoders
        assert embed(newer) == 200
        loads.gate.clear()
        try:
            waiting = [clients.submit(embed, older) for _ in range(MAX_INFERRING)]
            waiting += [clients.submit(search, "older") for _ in range(2)]
            eventually(lambda: client.get("/readyz").json()["loading"] == MAX_INFERRING + 2, "all to wait")
            others = [clients.submit(embed, newer), clients.submit(search, "newer")]
            assert [each.result(60) for each in others] == [200, 200]
            assert not any(each.done() for each in waiting)
        finally:
            loads.gate.set()
        assert {each.result(60) for each in waiting} == {200}
        assert [path.name for path in loads.directories] == [newer, older], "one load for all"


def test_it_can_be_switched_off(live_service: ServiceFixture, encoders: list[str], loads: Loads) -> None:
    with restarted(live_service, warm_encoders=False) as client:
        assert "lcl-warmup" not in [thread.name for thread in threading.enumerate()]
        assert client.post("/v1/collections/newer/search", json={"text": "x", "k": 1}).status_code == 200
        assert [path.name for path in loads.directories] == [encoders[1]]


def test_each_new_directory_is_warmed_also_of_a_known_encoder(
    monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """At the start the newest collection of each encoder."""
    warmed: list[str] = []
    rows = [SimpleNamespace(id=name, encoder_id=name[0], path=f"{name}/1") for name in ("a2", "b1", "a1")]
    database = SimpleNamespace(reading=nullcontext)

    def opened(state: Any, session: Any, name: str, embeds: Any, **options: bool) -> Any:
        path = next(row.path for row in rows if row.id == name)
        collection = SimpleNamespace(index_captions=lambda: warmed.append(path), has_text_vectors=True)
        return SimpleNamespace(id=name, collection=collection, encoder=SimpleNamespace(embed_texts=list))

    monkeypatch.setattr(warmup.registry, "list_collections", lambda session: list(rows))
    monkeypatch.setattr(warmup, "open_for_search", opened)
    started = EncoderWarmup(cast(AppState, SimpleNamespace(database=database)), poll_seconds=0.01)
    started.start()
    try:
        eventually(lambda: warmed == ["a2/1", "b1/1"], "the newest of each encoder")
        rows[2] = SimpleNamespace(id="a1", encoder_id="a", path="a1/2")
        eventually(lambda: warmed[2:] == ["a1/2"], "the directory of a later index run")
        rows.insert(0, SimpleNamespace(id="a3", encoder_id="a", path="a3/1"))
        eventually(lambda: warmed[3:] == ["a3/1"], "the collection of a later index run")
    finally:
        started.stop()


def test_a_collection_that_comes_later_is_searched_at_once_too(
    live_service: ServiceFixture, encoders: list[str], data_root: Path, eventually: Callable[..., None]
) -> None:
    state = AppState(live_service.context.settings)
    started = EncoderWarmup(state, poll_seconds=0.02)
    started.start()
    try:
        folder = save_encoder(data_root / "latest", 2)
        encoder = live_service.admin.import_encoder("latest", str(folder))
        make_collection(live_service, encoder, folder, images_by_colour(), "latest")
        eventually(lambda: encoder["id"] in [path.name for path in state.inference()._pool.loaded], "the new encoder")
    finally:
        started.stop()
        state.close()
