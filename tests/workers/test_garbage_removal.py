"""A worker removes what nothing names, by itself."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from lcl_core.common.errors import UserError
from lcl_core.db.artifact_store import ArtifactStore
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.garbage import collect_for_all
from lcl_core.db.models import TaskLease, new_id
from lcl_core.db.session import Database
from workers.maintenance import garbage_task
from workers.settings import WorkerSettings


@pytest.fixture
def orphan(settings: WorkerSettings) -> Path:
    folder = settings.runs_dir / new_id("run")
    folder.mkdir(parents=True)
    return folder


def collect(database: Database, settings: WorkerSettings, worker: str) -> int:
    return collect_for_all(database, settings, Artifacts(settings), worker, settings.gc_seconds)


def test_it_removes_what_is_due(
    database: Database, settings: WorkerSettings, orphan: Path, eventually: Callable[..., None]
) -> None:
    settings.gc_seconds, settings.gc_grace_seconds = 0.05, 0.1
    task = garbage_task(database, settings, "w-1")
    task.start()
    eventually(lambda: not orphan.exists(), "the removal")
    task.stop()


def test_the_store_of_artifacts_has_garbage_too_and_may_be_away(
    database: Database, settings: WorkerSettings, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.artifacts, settings.gc_grace_seconds = f"memory://{uuid.uuid4().hex}/artifacts", 0.0
    store = ArtifactStore(settings.artifacts)
    left = f"runs/{orphan.name}/1"
    store.put(left, orphan, {})

    def refuse(_: ArtifactStore) -> Iterator[tuple[str, int]]:
        yield from ()
        raise UserError("it is away", code="store_unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "iter_keys", refuse)
        assert collect(database, settings, "w-1") == 1
    assert not orphan.exists()
    assert dict(store.iter_keys()).keys() == {left}
    assert collect(database, settings, "w-1") == 1
    assert dict(store.iter_keys()) == {}


def test_a_folder_that_cannot_be_removed_does_not_end_it(
    database: Database,
    settings: WorkerSettings,
    orphan: Path,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.gc_seconds, settings.gc_grace_seconds = 0.05, 0.0
    tried: list[Path] = []

    def refuse(path: Path) -> None:
        tried.append(path)
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("lcl_core.db.garbage.remove_tree", refuse)
        task = garbage_task(database, settings, "w-1")
        task.start()
        eventually(lambda: len(tried) >= 2, "a second try")
    eventually(lambda: not orphan.exists(), "the removal")
    task.stop()


def test_one_worker_collects_for_all_of_a_home_and_lists_the_store_once(
    database: Database, settings: WorkerSettings, orphan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.artifacts = f"memory://{uuid.uuid4().hex}/artifacts"
    listed: list[str] = []

    def count(_: ArtifactStore) -> Iterator[tuple[str, int]]:
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


def test_a_collection_that_fails_is_left_to_others(
    database: Database, settings: WorkerSettings, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.gc_grace_seconds = 0.0

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("lcl_core.db.garbage.remove_tree", refuse)
        with pytest.raises(PermissionError):
            collect(database, settings, "w-1")
    assert collect(database, settings, "w-2") == 1


def test_a_long_collection_keeps_its_task_so_that_no_other_worker_begins_it(
    database: Database, settings: WorkerSettings, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder takes a good half of the time after which another worker may take over."""
    for _ in range(2):
        (settings.runs_dir / new_id("run")).mkdir()
    settings.gc_seconds, settings.gc_grace_seconds = 3600.0, 0.0
    passed, expiries = [0.0], []

    def expiry() -> datetime:
        with database.reading() as session:
            return session.scalars(select(TaskLease.expires_at)).one()

    def slow(path: Path) -> None:
        expiries.append(expiry())
        passed[0] += 0.6 * settings.gc_seconds
        shutil.rmtree(path)

    monkeypatch.setattr("lcl_core.db.garbage.remove_tree", slow)
    monkeypatch.setattr("workers.maintenance.time.monotonic", lambda: passed[0])
    assert collect(database, settings, "w-1") == 3
    assert expiries[0] < expiries[1] < expiries[2] < expiry()
