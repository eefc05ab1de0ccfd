"""Uploads of folders: enqueued, claimed by one process, recorded once they are in the store, discarded."""

from datetime import timedelta

import pytest

from lcl_core.common.errors import UserError
from lcl_core.db import runs, uploads
from lcl_core.db.models import ArtifactUpload, Garbage
from lcl_core.db.session import now

HERE, THERE = "a" * 32, "b" * 32
PATH = "encoders/enc_1"
FILES = {"x": {"bytes": 1, "sha256": "s", "modified_at": "2030-01-01T00:00:00+00:00"}}


@pytest.fixture
def enqueue(database):
    def add(path=PATH, attempt=1, holder=HERE):
        with database.session() as session:
            uploads.enqueue_upload(session, path, attempt, holder)

    return add


@pytest.fixture
def claim_upload(database):
    def claim(holder=HERE):
        with database.session() as session:
            return uploads.claim_upload(session, holder)

    return claim


@pytest.fixture
def row(database):
    def read(path=PATH):
        with database.reading() as session:
            return session.get_one(ArtifactUpload, path)

    return read


def record(database, task, files=FILES):
    with database.session() as session:
        uploads.record_uploaded(session, task, files)


def test_the_home_that_has_a_folder_uploads_it_once(database, enqueue, claim_upload, row):
    enqueue()
    with pytest.raises(UserError) as caught:
        uploads.require_uploaded(row())
    assert caught.value.code == "artifacts_pending"
    assert claim_upload(THERE) is None
    task = claim_upload()
    assert (task.path, task.key) == (PATH, f"{PATH}/1")
    assert claim_upload() is None, "another process is at it"
    record(database, task)
    assert (uploads.require_uploaded(row()), row().files, row().pending) == (f"{PATH}/1", FILES, None)
    assert claim_upload() is None


def test_a_failed_upload_is_due_again_later_and_later(database, enqueue, claim_upload, row):
    enqueue()
    waits = []
    for _ in range(12):
        task = claim_upload()
        with database.session() as session:
            uploads.record_upload_failure(session, task, "the store is away")
            stored = session.get_one(ArtifactUpload, task.path)
            waits.append(round((stored.next_at - now(session)).total_seconds()))
            stored.next_at = now(session) - timedelta(seconds=1)
    assert (waits[:4], waits[-1]) == ([2, 4, 8, 16], 600)
    with pytest.raises(UserError, match="the store is away"):
        uploads.require_uploaded(row())


def test_a_later_attempt_replaces_an_earlier_one_once_it_is_in_the_store(database, enqueue, claim_upload, row):
    path = "runs/run_1"
    enqueue(path)
    first = claim_upload()
    record(database, first)
    enqueue(path, 2, THERE)
    assert row(path).key == "runs/run_1/1"
    with database.reading() as session:
        assert uploads.runs_with_pending_uploads(session, ["run_1", "run_2"]) == {"run_1": None}
    record(database, first, {})  # a process that was very slow
    assert row(path).files == FILES
    record(database, claim_upload(THERE), {})
    assert (row(path).key, row(path).files) == ("runs/run_1/2", {})


def test_outputs_are_uploaded_before_the_folders_of_runs(enqueue, claim_upload):
    for path in ("runs/run_1", "encoders/enc_1"):
        enqueue(path)
    assert [claim_upload().path for _ in range(2)] == ["encoders/enc_1", "runs/run_1"]


def test_the_wait_is_that_of_the_folder_that_was_enqueued_first(database, enqueue, claim_upload):
    with database.reading() as session:
        assert uploads.pending_uploads(session) == (0, 0.0)
    enqueue()
    enqueue("runs/run_1", holder=THERE)
    with database.session() as session:
        session.get_one(ArtifactUpload, PATH).enqueued_at -= timedelta(hours=2)
    with database.reading() as session:
        count, seconds = uploads.pending_uploads(session)
    assert (count, seconds) == (2, pytest.approx(7200, abs=60))


def test_a_deleted_run_leaves_its_folder_and_its_copies_to_be_removed(database, queue, enqueue):
    run_id = queue()
    enqueue(f"runs/{run_id}", holder=THERE)
    with database.session() as session:
        runs.cancel_run(session, run_id)
    with database.session() as session:
        runs.delete_run(session, run_id)
        found = {(row.home, row.path) for row in session.query(Garbage)}
        assert session.query(ArtifactUpload).count() == 0
    digits = run_id.removeprefix("run_")
    assert found == {
        (THERE, f"runs/{run_id}"),
        (uploads.STORE, f"runs/{run_id}"),
        (uploads.STORE, f"checkpoints/{run_id}"),
        *((uploads.ANY_HOME, f"{folder}_{digits}") for folder in ("encoders/enc", "collections/col", "datasets/data")),
    }
