"""Completion of index runs whose index the worker writes to a server."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from lcl_core.collections.collection import Collection
from lcl_core.collections.writer import CollectionItem, CollectionWriter
from lcl_core.common.settings import Settings
from lcl_core.db import complete_run, garbage, registry, runs
from lcl_core.db.artifacts import Artifacts
from lcl_core.vector_indexes import INDEXES, IndexLocation, drop_index, open_index

ENCODER, DIM, ROWS = "e" * 64, 16, 40
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def write(directory, text_vectors=True):
    items = [CollectionItem(f"{row}.png", b"x", "image/png", (f"text {row}",)) for row in range(ROWS)]
    header = {"name": "many", "encoder_hash": ENCODER, "dataset_hash": "", "dim": DIM}
    with CollectionWriter(directory, **header, text_vectors=text_vectors) as writer:
        writer.add_items(items, VECTORS)
        if text_vectors:
            writer.add_text_vectors(-VECTORS)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, qdrant_url="http://127.0.0.1:9")


@pytest.fixture
def complete(database, queue, claim, tmp_path, settings):
    """Submit an index run, and complete it."""

    def act(index, text_vectors=True, **found):
        mode = "add" if "base" in found else "replace"
        run_id = queue("index", {"encoder": "any", "collection": "many", "index": index, "mode": mode})
        run_dir = tmp_path / "runs" / run_id
        write(run_dir / "artifacts" / "collection", text_vectors)
        found |= {"path": "artifacts/collection", "encoder_hash": ENCODER, "images": ROWS, "texts": ROWS, "dim": DIM}
        outcome = complete_run.RunSucceeded({"collection": {**found, "index": index}})
        arguments = (database, claim(), outcome, run_dir, tmp_path, 1.0, None, settings)
        return complete_run.complete_run(*arguments)

    return act


@pytest.fixture
def server(monkeypatch):
    """Qdrant's client in its local mode, in memory."""
    client = pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed").QdrantClient(
        ":memory:"
    )
    monkeypatch.setattr("lcl_core.collections.qdrant_index._client", lambda *_: client)
    yield client
    client.close()


def row_of(database):
    with database.reading() as session:
        return registry.get_collection(session, "many")


def search(database, home, settings, text_vectors=True):
    """Names of the images nearest to each vector, by the index that the row names."""
    row = row_of(database)
    location = IndexLocation(row.vectors or "", row.dim, settings)
    opened = Collection.open(home / row.path, verify=True, ask=open_index(row.vectors, location))
    if text_vectors:
        assert opened.search(-VECTORS[3], 1, "texts")[0].metadata["text"] == "text 3"
    return [opened.search(vector, 1)[0].metadata["image"] for vector in VECTORS]


def test_the_vectors_on_a_server_go_with_their_row(database, complete, server, tmp_path, settings, caplog):
    assert complete("qdrant") == "succeeded"
    first = row_of(database).vectors
    assert names(server) == {f"{first}_images", f"{first}_texts"}
    with caplog.at_level(logging.WARNING):
        assert search(database, tmp_path, settings) == [f"{row}.png" for row in range(ROWS)]
    assert "cannot be used" not in caplog.text
    assert complete("qdrant") == "succeeded"
    second = row_of(database).vectors
    assert second != first
    both = {f"{name}_{target}" for name in (first, second) for target in ("images", "texts")}
    assert names(server) == both, "a database that is restored names the older one again"
    assert collected(database, settings, grace_seconds=3600.0) == 0
    assert collected(database, settings) == 2, "the index and the folder"
    assert names(server) == {f"{second}_images", f"{second}_texts"}
    assert complete("files") == "succeeded"
    assert row_of(database).vectors is None
    assert collected(database, settings) == 2
    assert names(server) == set()


def collected(database, settings, grace_seconds=0.0):
    """How many indexes and folders go, without a grace unless told otherwise."""
    settings = settings.model_copy(update={"gc_grace_seconds": grace_seconds})
    return garbage.collect_garbage(database, settings, Artifacts(settings))


def names(server):
    return {each.name for each in server.get_collections().collections}


def test_a_server_that_is_away_fails_the_run_and_spares_the_collection(database, complete, tmp_path, settings, caplog):
    pytest.importorskip("qdrant_client", reason="the extra of index qdrant is not installed")
    assert complete("files") == "succeeded"
    before = row_of(database).path
    assert complete("qdrant") == "failed"
    with database.reading() as session:
        failed = runs.list_runs(session).items[0]
    assert failed.reason is not None
    assert (failed.reason["code"], failed.reason["field"]) == ("qdrant_failed", "index")
    assert row_of(database).path == before
    with caplog.at_level(logging.WARNING):
        drop_index("qdrant_1", IndexLocation(settings=settings))
    assert "index qdrant_1 is left behind" in caplog.text


class SlowServer:
    """An index of a server: ``names`` of those that exist. ``during_build`` is called while one is built."""

    names: ClassVar[set[str]] = set()
    during_build: ClassVar[Callable[[IndexLocation], None]]

    def __init__(self, location):
        self.location = location

    @classmethod
    def at(cls, location):
        return cls(location)

    @classmethod
    def check(cls, location): ...

    def build(self, target, batches):
        self.names.add(self.location.name)
        assert sum(len(rows) for rows, *_ in batches) == ROWS
        type(self).during_build(self.location)

    def drop(self):
        self.names.discard(self.location.name)


@pytest.fixture
def slow_server(monkeypatch):
    """In place of Qdrant's server."""
    kind = replace(INDEXES["qdrant"], index=f"{__name__}:{SlowServer.__name__}", package="json")
    monkeypatch.setitem(INDEXES, "qdrant", kind)
    monkeypatch.setattr(SlowServer, "names", set())
    monkeypatch.setattr(SlowServer, "during_build", lambda _: None, raising=False)
    return SlowServer


def test_an_index_whose_collection_is_refused_is_garbage(database, complete, slow_server, settings):
    assert complete("qdrant") == "succeeded"
    row = row_of(database)
    assert complete("qdrant", id=row.id, base="collections/replaced", through=0) == "failed"
    with database.reading() as session:
        failed = runs.list_runs(session).items[0]
    assert failed.reason is not None
    assert failed.reason["code"] == "collection_changed"
    collected(database, settings)
    assert slow_server.names == {row.vectors}
