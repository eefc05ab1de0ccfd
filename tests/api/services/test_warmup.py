"""Encoders that are in memory before the first search, and what a slow one leaves untouched."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from api import app as service
from api.app import create_app, warmup_task
from api.core.settings import ApiSettings
from api.services.state import MAX_OPENING, AppState
from lcl_core.encoders.engine import estimate_memory
from lcl_core.serving.batched_engine import BatchedEngine
from lcl_core.serving.model_pool import ModelPool
from tests.api.sample_assets import images_by_colour, make_collection, save_encoder


class Loads:
    """Directories that the pool loads, in order, behind a gate; ``examined``: those that it admitted."""

    def __init__(self, monkeypatch):
        self.directories = []
        self.examined = []
        self.gate = threading.Event()
        self.gate.set()
        original = ModelPool.__init__

        def init(pool, *args, **options):
            original(pool, *args, **options)
            load, admit = pool._load, pool._admit

            def counted(directory, registered):
                self.directories.append(directory)
                assert self.gate.wait(180)
                return load(directory, registered)

            def admitted(directory, registered):
                admit(directory, registered)
                self.examined.append(directory)

            pool._load, pool._admit = counted, admitted

        monkeypatch.setattr(ModelPool, "__init__", init)


@pytest.fixture
def loads(monkeypatch):
    return Loads(monkeypatch)


@pytest.fixture(scope="module")
def encoders(live_service, data_root):
    """Ids of two encoders, each with a collection of its own name, the older first."""
    ids = []
    for seed, name in enumerate(("older", "newer")):
        folder = save_encoder(data_root / name, seed)
        encoder = live_service.admin.import_encoder(name, str(folder))
        make_collection(live_service, encoder, folder, images_by_colour(), name)
        ids.append(encoder["id"])
    return ids


@contextmanager
def restarted(live_service, **settings):
    """The service as started anew on the same home, with warm encoders unless told otherwise."""
    values = {"home": live_service.home, "warm_encoders": True, **settings}
    app = create_app(ApiSettings(**values, _env_file=None))
    with TestClient(app, headers={"authorization": f"Bearer {live_service.keys['admin']}"}) as client:
        yield client


def in_memory(client):
    """Ids of loaded encoders."""
    inference = client.app.state.context._inference
    return [] if inference is None else [path.name for path in inference._pool.loaded]


def test_encoders_are_examined_and_loaded_before_anybody_searches_the_newest_first(
    live_service, encoders, loads, eventually
):
    with restarted(live_service) as client:
        eventually(lambda: len(in_memory(client)) == 2, "both encoders")
        assert [path.name for path in loads.directories] == encoders[::-1]
        assert [path.name for path in loads.examined] == encoders[::-1]
        for name in ("older", "newer"):
            found = client.post(f"/v1/collections/{name}/search", json={"text": "a red square", "k": 1})
            assert found.status_code == 200, found.text
        assert len(loads.directories) == 2, "a search loads nothing any more"


def test_each_encoder_has_embedded_a_text_before_anybody_searches(live_service, encoders, monkeypatch, eventually):
    """The first forward pass takes longer: it loads the tokenizer and makes oneDNN's kernels."""
    embedded = []
    original = BatchedEngine.embed_texts

    def record(engine, *given, **named):
        vectors = original(engine, *given, **named)
        embedded.append(engine)
        return vectors

    monkeypatch.setattr(BatchedEngine, "embed_texts", record)
    with restarted(live_service):
        eventually(lambda: len(set(embedded)) == 2, "a text of each encoder")


def test_none_leaves_the_memory_for_one_that_nobody_has_asked_for(live_service, encoders, loads, data_root, eventually):
    room = estimate_memory(data_root / "newer", "cpu", "fp32")
    with restarted(live_service, encoder_memory_bytes=room) as client, capture_logs() as logs:
        eventually(lambda: any(line["event"] == "encoder_not_warmed" for line in logs), "the older to be left out")
        assert in_memory(client) == [encoders[1]]
        assert client.post("/v1/collections/older/search", json={"text": "x", "k": 1}).status_code == 200
        assert in_memory(client) == [encoders[0]], "a request still gets its encoder"


def test_a_slow_load_delays_no_other_request_and_is_reported(live_service, encoders, loads, eventually):
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


def test_an_encoder_that_is_being_loaded_stops_no_request_for_another(live_service, encoders, loads, eventually):
    """Neither embeddings nor searches, however many requests wait for it."""
    with restarted(live_service, warm_encoders=False) as client, ThreadPoolExecutor(MAX_OPENING) as clients:

        def embed(encoder):
            return client.post("/v1/embeddings", json={"model": encoder, "input": "a red square"}).status_code

        def search(collection):
            return client.post(f"/v1/collections/{collection}/search", json={"text": "red", "k": 1}).status_code

        older, newer = encoders
        assert embed(newer) == 200
        loads.gate.clear()
        try:
            waiting = [clients.submit(embed, older) for _ in range(MAX_OPENING - 10)]
            waiting += [clients.submit(search, "older") for _ in range(2)]
            eventually(lambda: client.get("/readyz").json()["loading"] == 1, "the load")
            others = [clients.submit(embed, newer), clients.submit(search, "newer")]
            assert [each.result(60) for each in others] == [200, 200]
            assert not any(each.done() for each in waiting)
        finally:
            loads.gate.set()
        assert {each.result(60) for each in waiting} == {200}
        assert [path.name for path in loads.directories] == [newer, older], "one load for all"


def test_a_collection_that_comes_later_is_searched_at_once_too(
    live_service, encoders, data_root, eventually, monkeypatch
):
    monkeypatch.setattr(service, "WARM_SECONDS", 0.02)
    state = AppState(live_service.context.settings)
    started = warmup_task(state)
    started.start()
    try:
        folder = save_encoder(data_root / "latest", 2)
        encoder = live_service.admin.import_encoder("latest", str(folder))
        make_collection(live_service, encoder, folder, images_by_colour(), "latest")
        eventually(lambda: encoder["id"] in [path.name for path in state.inference()._pool.loaded], "the new encoder")
    finally:
        started.stop()
        state.close()
