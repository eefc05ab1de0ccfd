"""A worker removes what nothing names, by itself."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import delete

from lcl_core.common.errors import UserError
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.garbage import collect_for_all
from lcl_core.db.models import TaskLease, new_id
from workers.maintenance import garbage_task


@pytest.fixture
def orphan(settings):
    folder = settings.runs_dir / new_id("run")
    folder.mkdir(parents=True)
    return folder


def collect(database, settings, worker):
    return collect_for_all(database, settings, Artifacts(settings), worker, settings.gc_seconds)


def test_it_removes_what_is_due(database, settings, orphan, eventually):
    settings.gc_seconds, settings.gc_grace_seconds = 0.05, 0.1
    task = garbage_task(database, settings, "w-1")
    task.start()
    eventually(lambda: not orphan.exists(), "the removal")
    task.stop()


def test_the_store_of_artifacts_has_garbage_too_and_may_be_away(database, settings, orphan, monkeypatch):
    settings.artifacts, settings.gc_grace_seconds = f"memory://{uuid.uuid4().hex}/artifacts", 0.0
    store = ArtifactStore(settings.artifacts)
    left = f"runs/{orphan.name}/1"
    store.put(left, orphan, {})

    def refuse(_):
        yield from ()
        raise UserError("it is away", code="store_unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "iter_keys", refuse)
        assert collect(database, settings, "w-1") == 1
    assert not orphan.exists()
    assert dict(store.iter_keys()).keys() == {left}
    assert collect(database, settings, "w-1") == 1
    assert dict(store.iter_keys()) == {}


def test_one_worker_collects_for_all_of_a_home_and_lists_the_store_once(
    database, settings, orphan, tmp_path, monkeypatch
):
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    listed: list[str] = []

    def count(_):
        listed.append("the store")
        yield from ()

    monkeypatch.setattr(ArtifactStore, "iter_keys", count)
    other = settings.model_copy(update={"home": tmp_path / "other", "gc_grace_seconds": 0.0})
    for worker in ("w-1", "w-2", "w-3"):
        collect(database, settings, worker)
    assert listed == ["the store"]
    with database.session() as session:
        session.execute(
            delete(TaskLease).where(TaskLease.name == "garbage/store")
        )  # its time is over before the home's
    assert collect(database, settings, "w-2") == 0, "the home is another worker's"
    (other.runs_dir / orphan.name).mkdir(parents=True)
    assert collect(database, other, "w-4") == 1, "each home has its own"
    assert listed == ["the store"] * 2, "who may not collect has not taken the store's turn"
